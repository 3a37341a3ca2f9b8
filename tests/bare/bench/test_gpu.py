"""Every row of the GPU bench, at tiny sizes on a CPU."""

import math

import gpu
import pytest


def test_every_row_runs() -> None:
    readings = list(gpu.measure(gpu.Options(device="cpu")))
    whats = [reading.what for reading in readings]
    for part in ("dense, forward", "packed", "rank of 8", "tiled loss", "step", "read", "encode"):
        assert any(part in what for what in whats), part
    assert all(math.isfinite(r.value) and r.value > 0 for r in readings)
    (parity,) = [r for r in readings if "against float64" in r.what]
    assert parity.value <= 1e-5
    assert all(str(reading) for reading in readings)


def test_mistakes_are_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown parts \['speed'\]"):
        gpu.Options(device="cpu", parts=("speed",))
