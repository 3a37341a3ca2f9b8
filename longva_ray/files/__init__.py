"""What lies on disks and object stores: `places` (paths and URIs), `folder` (list, read, write
whole, lock), `digest` (fingerprints)."""
