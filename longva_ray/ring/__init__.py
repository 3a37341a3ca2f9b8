"""Sequence parallelism: exact causal attention over a sequence that is spread over many ranks.
Knows no model.

layout        which token lives on which rank; documents, positions, labels
plan          layout -> which query rows meet which key rows
block         one kernel call, (q, k, v) -> (out, log-sum-exp), forward and backward
attention     the whole thing over a process group, as one differentiable function
hf            the same under a name that transformers models can be told to use
mesh          ranks -> data parallel x ring groups
"""
