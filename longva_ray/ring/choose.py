"""Which attention kernel runs on a device: decided once a process, and logged.

A new kernel is one file with a class that follows `kernel.Kernel`, and its line in `KERNELS`.
"""

import functools
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.cudnn import Cudnn
from longva_ray.ring.flash_package import FlashPackage
from longva_ray.ring.kernel import CannotRun, Kernel

logger = logging.getLogger(__name__)

KernelName: TypeAlias = Literal["cudnn", "flash-attn", "aten", "fa4"]

KERNELS: dict[str, dict[KernelName, Callable[[], Kernel]]] = {
    "cpu": {"aten": AtenCpu},
    "cuda": {
        "cudnn": Cudnn.load,
        "flash-attn": FlashPackage.load,
        "aten": AtenCuda,
        "fa4": AtenCuda.version_4,
    },
}
"""The kernels of each type of device, best first. One that raises ImportError or CannotRun is
passed over. `aten` always runs, so what comes after it is taken only when it is named."""


@functools.cache
def choose_kernel(device_type: str, name: KernelName | None = None) -> Kernel:
    """The best kernel for "cpu" or "cuda" tensors that runs here, or the one named `name`.

    Raises ValueError for a device without a kernel, or a named kernel that this machine cannot run.
    """
    kernels = KERNELS.get(device_type)
    if kernels is None:
        raise ValueError(f"attention runs on {list(KERNELS)} tensors, got {device_type!r}")
    if name is not None and name not in kernels:
        raise ValueError(
            f"kernel {name!r} does not take {device_type} tensors; choose one of {list(kernels)}"
        )
    for candidate in kernels if name is None else [name]:
        try:
            kernel = kernels[candidate]()
        except (ImportError, CannotRun) as error:
            logger.info("kernel %s cannot run here: %s", candidate, error)
            if name is not None:
                raise ValueError(_refusal(name, error)) from error
            continue
        logger.info("attention on %s: block kernel %s", device_type, kernel.name)
        return kernel
    raise AssertionError("the last kernel always runs")


def _refusal(name: KernelName, error: Exception) -> str:
    packages = {"flash-attn": "'longva-ray[gpu]'", "fa4": "flash-attn-4"}
    install = f"pip install {packages[name]}, or " if isinstance(error, ImportError) else ""
    return (
        f"kernel {name!r} cannot run here ({error}); {install}use kernel 'aten', which ships with "
        "torch"
    )
