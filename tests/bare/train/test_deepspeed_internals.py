"""DeepSpeed still has what `train.deepspeed_internals` reaches into."""

import pytest

from longva_ray.train.deepspeed_internals import SHARED_MEMORY, without_shared_memory


def test_shared_memory_can_be_ruled_out() -> None:
    deepspeed = pytest.importorskip("deepspeed")
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == SHARED_MEMORY
    assert SHARED_MEMORY in deepspeed.ops.__compatible_ops__
    without_shared_memory(deepspeed)
    assert build_shm_op() is None
