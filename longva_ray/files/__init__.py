"""What lies on disks and object stores: places and folders, numbered parts, which videos a list
stands for, fingerprints."""
