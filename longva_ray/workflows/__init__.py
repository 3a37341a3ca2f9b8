"""Several stages behind one command: the demo, the extension, longva-tiny and its quiz."""
