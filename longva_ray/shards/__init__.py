"""Visual tokens <-> embedding shards: schema, store, workers, and the Ray Data graph."""
