"""IMAGE CHATS -> VISION SHARDS: read samples, cut images into grids, pack into rows, write."""
