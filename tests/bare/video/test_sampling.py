"""Sampling: the frame shown at each second, the released code's formulas, text forms, mistakes."""

import bisect
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.video.sampling import RATES, Sampling

ONE_A_SECOND = Sampling(mode="time", fps=1.0)


BY_COUNT = Sampling(mode="count", fps=1.0)


TICK = Fraction(1, 1000)


def regular(num_frames: int, fps: Fraction | int = 25, start: int = 0) -> np.ndarray:
    """Times of frames at a constant rate, rounded to ticks as a container rounds them."""
    return np.array([start + round(k / Fraction(fps) / TICK) for k in range(num_frames)], np.int64)


frame_counts = st.integers(1, 300_000)


frame_rates = st.floats(0.5, 240, allow_nan=False)


@given(frame_counts, frame_rates)
def test_one_frame_per_second_is_every_rounded_fps_th(num_frames: int, average_fps: float) -> None:
    expected = range(0, num_frames, max(1, round(average_fps)))
    got = BY_COUNT.indices(np.arange(num_frames), TICK, average_fps)
    assert got.tolist() == list(expected)


@given(
    st.lists(st.integers(1, 400), max_size=20),
    st.integers(-5000, 5000),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 600)]),
    st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 7.7, 29.97, 90.0]),
)
def test_by_time_against_a_player_that_looks_at_each_second(
    gaps: list[int], start: int, time_base: Fraction, fps: float
) -> None:
    pts_F = start + np.cumsum([0, *gaps])
    step = 1 / (Fraction(str(fps)) * time_base)
    seen, times = set(), pts_F.tolist()
    end = int(pts_F[-1] - pts_F[0])
    end += max(0, end // max(1, len(gaps)) - 2)
    for k in range(math.floor(end / step) + 1):
        now = times[0] + math.ceil(k * step)
        seen.add(bisect.bisect_right(times, now) - 1)
    sampling = Sampling(mode="time", fps=fps)
    assert sampling.indices(pts_F, time_base, 25.0).tolist() == sorted(seen)


def test_the_last_picture_of_a_slide_show_is_seen() -> None:
    assert ONE_A_SECOND.indices(np.array([0, 10_500, 20_500]), TICK, 0.1).tolist() == [0, 1, 2]


def test_by_time_at_a_variable_rate() -> None:
    """30 frames in the first 3 seconds, then one every 10: by count only the 3 seconds are seen."""
    pts_F = np.concatenate([np.arange(30) * 100, 3000 + np.arange(4) * 10_000])
    assert ONE_A_SECOND.indices(pts_F, TICK, 1.0).tolist() == [0, 10, 20, 30, 31, 32, 33]
    assert BY_COUNT.indices(pts_F, TICK, 10.0).tolist() == [0, 10, 20, 30]


@pytest.mark.parametrize("fps", [24, 30, 60])
@pytest.mark.parametrize("start", [0, 33, 67])
def test_at_a_whole_constant_rate_time_and_count_agree(fps: int, start: int) -> None:
    pts_F = regular(40 * fps, fps, start)
    for rate in (0.5, 1.0, 2.0, 3.0, 6.0):
        by_time = Sampling(mode="time", fps=rate).indices(pts_F, TICK, fps)
        by_count = Sampling(mode="count", fps=rate).indices(pts_F, TICK, fps)
        assert by_time.tolist() == by_count.tolist()


def test_ntsc_drifts_by_count_and_not_by_time() -> None:
    fps = Fraction(30_000, 1001)
    pts_F = regular(30 * 1001, fps)
    by_time = ONE_A_SECOND.indices(pts_F, TICK, float(fps))
    assert np.abs(pts_F[by_time] - 1000 * np.arange(len(by_time))).max() <= 1000 / fps
    assert pts_F[BY_COUNT.indices(pts_F, TICK, float(fps))][-1] == 1_001_000


@pytest.mark.parametrize("rate", ["1fps", "3fps", "0.7fps"])
@pytest.mark.parametrize("fps", [Fraction(30_000, 1001), Fraction(24_000, 1001), Fraction(25)])
def test_ticks_as_long_as_a_frame_give_the_same_frames_as_short_ones(
    fps: Fraction, rate: str
) -> None:
    """AVI counts in frames, MP4 in much less."""
    sampling = Sampling.parse(rate)
    number_F = np.arange(400)
    in_frames = sampling.indices(number_F, 1 / fps, float(fps))
    in_little = sampling.indices(number_F * 1001, 1 / fps / 1001, float(fps))
    assert in_frames.tolist() == in_little.tolist()
    due = [int(k / Fraction(rate.removesuffix("fps")) * fps) for k in range(len(in_frames))]
    assert in_frames.tolist() == due


@given(frame_counts, st.integers(1, 4096))
def test_uniform_is_linspace(num_frames: int, wanted: int) -> None:
    indices = Sampling(mode="uniform", num_frames=wanted).indices(np.arange(num_frames), TICK, 25.0)
    if wanted < num_frames:
        assert indices.tolist() == np.linspace(0, num_frames - 1, wanted, dtype=int).tolist()
    else:
        assert indices.tolist() == list(range(num_frames))


@given(
    st.one_of(
        st.builds(
            lambda mode, fps: Sampling(mode=mode, fps=fps),
            st.sampled_from(RATES),
            st.floats(1e-3, 1e3),
        ),
        st.builds(lambda n: Sampling(mode="uniform", num_frames=n), st.integers(1, 10**6)),
        st.just(Sampling(mode="every")),
    ),
    st.integers(1, 5000),
    frame_rates,
)
def test_any_sampling_is_increasing_inside_the_video_and_survives_its_text(
    sampling: Sampling, num_frames: int, average_fps: float
) -> None:
    indices = sampling.indices(np.cumsum(np.full(num_frames, 40)), TICK, average_fps)
    assert indices.dtype == np.int64
    assert indices[0] == 0
    assert indices[-1] < num_frames
    assert (np.diff(indices) > 0).all()
    assert Sampling.parse(str(sampling)) == sampling
    assert Sampling.parse_stored(sampling.stored) == sampling


TEXTS = ["1fps", "0.5fps", "29.97fps", "1fps-by-count", "0.5fps-by-count", "uniform:128", "every"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_forms_are_given_back_as_they_were(text: str) -> None:
    assert str(Sampling.parse(text)) == text


def test_artifacts_never_call_two_rules_by_one_name() -> None:
    assert Sampling.parse("1fps-by-count").stored == "1fps"  # as before there was another rule
    assert Sampling.parse("1fps").stored == "1fps-by-time"
    assert Sampling.parse("uniform:128").stored == "uniform:128"


@pytest.mark.parametrize(
    "text", ["", "fps", "0fps", "-1fps", "1 fps", "1fps-by-x", "uniform:0", "uniform:x", "all"]
)
def test_unreadable_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="sampl"):
        Sampling.parse(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "time"},
        {"mode": "count"},
        {"mode": "uniform"},
        {"mode": "every", "fps": 1.0},
        {"mode": "time", "fps": 1.0, "num_frames": 3},
        {"mode": "time", "fps": float("nan")},
        {"mode": "count", "fps": float("inf")},
        {"mode": "sometimes"},
    ],
)
def test_contradicting_fields_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="sampling"):
        Sampling(**arguments)  # type: ignore[arg-type]


def test_a_video_without_frames_or_rate_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        ONE_A_SECOND.indices(np.zeros(0, np.int64), TICK, 25.0)
    with pytest.raises(ValueError, match=r"0\.0 frames per second"):
        BY_COUNT.indices(np.arange(10), TICK, 0.0)
