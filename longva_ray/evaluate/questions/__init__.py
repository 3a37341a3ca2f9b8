"""Questions about videos in bulk: asked, counted, drawn."""
