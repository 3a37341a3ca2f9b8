"""Pairs of answers -> preference shards."""
