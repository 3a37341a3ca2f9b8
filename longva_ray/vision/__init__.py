"""Frames in, visual tokens out: UniRes or AnyRes grids, CLIP tower, projector, pooling.

grids_GYXC (uint8) -> tokens_GQD. An image is one or more grids, a video of N frames is N grids. No
Ray here, and no language model: a visual token is whatever `FrameEncoder` says it is.
"""
