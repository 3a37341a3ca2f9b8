"""Torch still has the private operators that the kernels call, with the parameters they pass."""

import pytest
import torch

PARAMETERS = {
    "_scaled_dot_product_flash_attention_for_cpu": (
        "query key value dropout_p is_causal attn_mask scale"
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        "grad_out query key value out logsumexp dropout_p is_causal attn_mask scale"
    ),
    "_flash_attention_forward": (
        "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask "
        "scale window_size_left window_size_right seqused_k alibi_slopes"
    ),
    "_flash_attention_backward": (
        "grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p "
        "is_causal rng_state unused scale window_size_left window_size_right"
    ),
    "_scaled_dot_product_cudnn_attention": (
        "query key value attn_bias compute_log_sumexp dropout_p is_causal return_debug_mask scale"
    ),
    "_scaled_dot_product_cudnn_attention_backward": (
        "grad_out query key value out logsumexp philox_seed philox_offset attn_bias cum_seq_q "
        "cum_seq_k max_q max_k dropout_p is_causal scale"
    ),
}
RESULTS = {
    "_scaled_dot_product_flash_attention_for_cpu": 2,
    "_scaled_dot_product_flash_attention_for_cpu_backward": 3,
    "_flash_attention_forward": 5,
    "_flash_attention_backward": 3,
    "_scaled_dot_product_cudnn_attention": 9,
    "_scaled_dot_product_cudnn_attention_backward": 3,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_torch_has_the_operator_with_these_parameters(name: str) -> None:
    assert hasattr(torch.ops.aten, name), (
        f"torch {torch.__version__} has no aten.{name}; change longva_ray/ring/aten.py"
    )
    schema = getattr(torch.ops.aten, name).default._schema
    got = [argument.name for argument in schema.arguments]
    wanted = PARAMETERS[name].split()
    assert (got[: len(wanted)], len(schema.returns)) == (wanted, RESULTS[name]), (
        f"torch {torch.__version__} has changed aten.{name}; change longva_ray/ring/aten.py"
    )
