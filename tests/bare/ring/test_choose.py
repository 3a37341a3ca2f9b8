"""Which kernel a device gets, and what is said about it."""

import logging
import sys
from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import register_flash_attention_impl, restore_flash_attention_impl
from torch.nn.attention._fa4 import register_flash_attention_fa4

from longva_ray.ring.choose import choose_kernel
from longva_ray.ring.cuda import AtenCuda
from longva_ray.ring.cudnn import Cudnn


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


def gpu_of(capability: tuple[int, int], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    patch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


def test_hopper_and_later_run_cudnn_and_the_log_says_what_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of((9, 0), monkeypatch)
    with caplog.at_level(logging.INFO, logger="longva_ray.ring.choose"):
        assert isinstance(choose_kernel("cuda"), Cudnn)
    assert [r.message for r in caplog.records] == [
        "attention on cuda: block kernel cuDNN, and aten (CUDA flash) for small segments"
    ]


def test_without_cudnn_and_flash_attn_torch_serves_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of((8, 0), monkeypatch)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with caplog.at_level(logging.INFO, logger="longva_ray.ring.choose"):
        assert isinstance(choose_kernel("cuda"), AtenCuda)
    assert "kernel cudnn cannot run here: it wants compute capability 9.0, got 8.0" in caplog.text
    assert "kernel flash-attn cannot run here" in caplog.text
    with pytest.raises(ValueError, match=r"longva-ray\[gpu\]"):
        choose_kernel("cuda", "flash-attn")
    with pytest.raises(ValueError, match=r"'cudnn' cannot run here .*9.0, got 8.0 of a GPU"):
        choose_kernel("cuda", "cudnn")


def test_version_4_is_named_where_it_runs_and_refused_where_it_would_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before torch 2.13 the operator fell back to version 2 without a word."""
    with pytest.raises(ValueError, match="pip install flash-attn-4"):
        choose_kernel("cuda", "fa4")
    assert choose_kernel("cuda", "aten").name == "aten (CUDA flash)"
    register_flash_attention_impl("FA4", register_fn=FakeHandle)
    try:
        assert choose_kernel("cuda", "fa4").name == "aten (CUDA flash, FA4)"
        restore_flash_attention_impl()
        assert choose_kernel("cuda", "fa4").name == "aten (CUDA flash)"
    finally:
        register_flash_attention_impl("FA4", register_fn=register_flash_attention_fa4)
    choose_kernel.cache_clear()
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu130")
    with pytest.raises(ValueError, match=r"wants torch 2.13, got 2.12.1\+cu130"):
        choose_kernel("cuda", "fa4")


class FakeHandle:
    """What an implementation that replaced the operators would return."""

    def remove(self) -> None:
        pass
