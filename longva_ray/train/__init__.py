"""Training: packing, image chat, preferences, the loop, ZeRO, checkpoints, the memory plan."""
