"""Sampling: the released code's formulas, the text forms, the mistakes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.video.sampling import Sampling

ONE_A_SECOND = Sampling(mode="rate", fps=1.0)


frame_counts = st.integers(1, 300_000)


frame_rates = st.floats(0.5, 240, allow_nan=False)


@given(frame_counts, frame_rates)
def test_one_frame_per_second_is_every_rounded_fps_th(num_frames: int, average_fps: float) -> None:
    expected = range(0, num_frames, max(1, round(average_fps)))
    assert ONE_A_SECOND.indices(num_frames, average_fps).tolist() == list(expected)


@given(frame_counts, st.integers(1, 4096))
def test_uniform_is_linspace(num_frames: int, wanted: int) -> None:
    indices = Sampling(mode="uniform", num_frames=wanted).indices(num_frames, 25.0)
    if wanted < num_frames:
        assert indices.tolist() == np.linspace(0, num_frames - 1, wanted, dtype=int).tolist()
    else:
        assert indices.tolist() == list(range(num_frames))


@given(
    st.one_of(
        st.builds(lambda fps: Sampling(mode="rate", fps=fps), st.floats(1e-3, 1e3)),
        st.builds(lambda n: Sampling(mode="uniform", num_frames=n), st.integers(1, 10**6)),
        st.just(Sampling(mode="every")),
    ),
    st.integers(1, 5000),
    frame_rates,
)
def test_any_sampling_is_increasing_inside_the_video_and_survives_its_text(
    sampling: Sampling, num_frames: int, average_fps: float
) -> None:
    indices = sampling.indices(num_frames, average_fps)
    assert indices.dtype == np.int64
    assert indices[0] == 0
    assert indices[-1] < num_frames
    assert (np.diff(indices) > 0).all()
    assert Sampling.parse(str(sampling)) == sampling
    assert Sampling.parse(sampling.slug) == sampling
    assert re.fullmatch(r"[\w.-]+", sampling.slug)


@pytest.mark.parametrize("text", ["1fps", "0.5fps", "29.97fps", "uniform:128", "every"])
def test_text_forms_are_given_back_as_they_were(text: str) -> None:
    assert str(Sampling.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "fps", "0fps", "-1fps", "1 fps", "uniform:0", "uniform:x", "all"]
)
def test_unreadable_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="sampl"):
        Sampling.parse(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "rate"},
        {"mode": "uniform"},
        {"mode": "every", "fps": 1.0},
        {"mode": "rate", "fps": 1.0, "num_frames": 3},
        {"mode": "rate", "fps": float("nan")},
        {"mode": "rate", "fps": float("inf")},
        {"mode": "sometimes"},
    ],
)
def test_contradicting_fields_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="sampling"):
        Sampling(**arguments)  # type: ignore[arg-type]


def test_a_video_without_frames_or_rate_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        ONE_A_SECOND.indices(0, 25.0)
    with pytest.raises(ValueError, match=r"0\.0 frames per second"):
        ONE_A_SECOND.indices(10, 0.0)
