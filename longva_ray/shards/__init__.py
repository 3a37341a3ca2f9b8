"""Stage 3, visual tokens <-> embedding shards: `schema`, `store`, `workers`, and `pipeline`, the
Ray Data graph."""
