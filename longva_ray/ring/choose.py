"""Which attention kernel runs on a device: decided once a process, and logged.

A new kernel is one file with a class that follows `kernel.Kernel`, and its line in `KERNELS`.
"""

import functools
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from longva_ray.ring.cpu import AtenCpu
from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.flash_package import FlashPackage
from longva_ray.ring.kernel import Kernel

logger = logging.getLogger(__name__)

KernelName: TypeAlias = Literal["aten", "flash-attn"]

KERNELS: dict[str, dict[KernelName, Callable[[], Kernel]]] = {
    "cpu": {"aten": AtenCpu},
    "cuda": {"flash-attn": FlashPackage.load, "aten": AtenCuda},
}
"""The kernels of each type of device, best first. One that raises ImportError is passed over."""


@functools.cache
def choose_kernel(device_type: str, name: KernelName | None = None) -> Kernel:
    """The best kernel for "cpu" or "cuda" tensors that can be imported, or the one named `name`.

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
        except ImportError as error:
            logger.info("kernel %s cannot be imported (%s)", candidate, error)
            continue
        logger.info("attention on %s: block kernel %s", device_type, kernel.name)
        return kernel
    raise ValueError(
        f"kernel {name!r} cannot be imported; pip install 'longva-ray[gpu]', or use kernel 'aten', "
        "which ships with torch"
    )
