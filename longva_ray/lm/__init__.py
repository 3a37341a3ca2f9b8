"""A prompt and visual tokens in, logits out: model, processor, prompt and checkpoints.

Knows no ring and no Ray: the attention is a name (`attn_implementation`) that somebody else
registered. Loading the language model alone needs neither the vision tower's weights nor any
pixels.
"""
