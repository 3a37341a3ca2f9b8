"""Sequence parallelism: exact causal attention over a sequence that is spread over many ranks.
Knows no model.

layout          which token lives on which rank; documents, positions, labels
plan            layout -> which query rows meet which key rows
kernel          what one kernel call computes, and how results are merged
cpu cuda cudnn  the kernels that ship with torch (`aten` holds torch's private operators)
flash_package   the kernel of the flash-attn package; `flash` is what it shares with `cuda`
square          a causal rectangle as two calls that all kernels agree about
choose          the kernel for a device
attention       the whole thing over a process group, as one differentiable function
point_to_point  its schedule that passes keys around; `all_gather` fetches them all first
zigzag_package  the same by the ring-flash-attn package
keep            the forward result, kept across activation checkpointing
hf              attention under a name that transformers models can be told to use
mesh            ranks -> data parallel x ring groups
"""
