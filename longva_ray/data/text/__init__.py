"""TEXT -> TOKEN SHARDS: find the files, tokenise, mix, pack into rows, write."""
