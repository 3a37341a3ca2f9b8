"""Which kernel a device gets, and what is said about it."""

import logging
import sys
from collections.abc import Iterator

import pytest

from longva_ray.ring.choose import choose_kernel
from longva_ray.ring.cuda import AtenCuda


@pytest.fixture(autouse=True)
def nothing_chosen_yet() -> Iterator[None]:
    choose_kernel.cache_clear()
    yield
    choose_kernel.cache_clear()


def test_kernel_is_chosen_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="longva_ray.ring.choose"):
        kernel = choose_kernel("cpu")
        assert choose_kernel("cpu") is kernel
    assert [r.message for r in caplog.records] == [
        "attention on cpu: block kernel aten (CPU flash)"
    ]


def test_kernels_that_cannot_run_are_errors() -> None:
    assert isinstance(choose_kernel("cuda", "aten"), AtenCuda)
    with pytest.raises(
        ValueError, match=r"'flash-attn' does not take cpu tensors; choose one of \['aten'\]"
    ):
        choose_kernel("cpu", "flash-attn")
    with pytest.raises(ValueError, match=r"\['cpu', 'cuda'\] tensors, got 'mps'"):
        choose_kernel("mps")


def test_without_flash_attn_torch_serves_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with caplog.at_level(logging.INFO, logger="longva_ray.ring.choose"):
        assert isinstance(choose_kernel("cuda"), AtenCuda)
    assert "kernel flash-attn cannot be imported" in caplog.text
    with pytest.raises(ValueError, match=r"longva-ray\[gpu\]"):
        choose_kernel("cuda", "flash-attn")
