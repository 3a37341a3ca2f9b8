"""The needle in a haystack of text (`niah`), and perplexity by position."""
