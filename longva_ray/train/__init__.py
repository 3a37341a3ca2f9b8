"""Rows -> weights: the loop with its engines and checkpoints, `stages`, and Ray Train (`run`)."""
