"""Everything this package takes from inside DeepSpeed, in one place.

DeepSpeed has no public form of it. `tests/bare/train/test_deepspeed_internals.py` fails when a new
version moves it.
"""

from typing import Any

SHARED_MEMORY = "deepspeed_shm_comm"


def without_shared_memory(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives on a CPU.

    They are for inference. Building them takes a compiler and minutes at first use.
    """
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
