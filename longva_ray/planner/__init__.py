"""What a training step needs in memory, computed before it is launched."""
