"""Texts and images -> rows to train on, as shards on disk."""
