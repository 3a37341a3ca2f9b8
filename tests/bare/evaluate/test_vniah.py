"""Trials of the visual needle test: where the needle is, what is shared, what is decided."""

import dataclasses

import pytest
import torch

from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.video.haystack import write_haystack_video
from longva_ray.evaluate.video.needles import draw_cards, encode_needles
from longva_ray.evaluate.video.report import compare
from longva_ray.evaluate.video.vniah import (
    EncodedHaystack,
    EncodedNeedles,
    VniahTrial,
    VniahWorker,
    plan_groups,
    says,
)
from longva_ray.lm.splice import embed_prompt
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames, describe_encoder, encode_one_video

CONFIG = VniahConfig(
    dtype="float32",
    worker_gpus=0,
    frames=(10, 20),
    depths=(0.0, 0.5, 1.0),
    prefill_chunk=16,
    extra_tokens=2,
)


@pytest.fixture(scope="module")
def haystack(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> EncodedHaystack:
    """Two videos of 12 frames, in a store."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("haystack")
    encode = EncodeConfig(dtype="float32", part_frames=8)
    spec = describe_encoder(tiny_checkpoint, encode)
    store = ShardStore(folder / "shards")
    videos = []
    for seed in (0, 1):
        path = folder / f"{seed}.mp4"
        write_haystack_video(path, seconds=12, seed=seed)
        record = encode_one_video(str(path), store, spec, EncodeFrames(tiny_checkpoint, encode))
        videos.append(record.video_id)
    return EncodedHaystack(
        store=store.root,
        video_ids=tuple(videos),
        spec=spec,
    )


@pytest.fixture(scope="module")
def needles(tiny_checkpoint: str) -> EncodedNeedles:
    cards = draw_cards(2, seed=0)
    images = [card.image_YXC for card in cards]
    return EncodedNeedles(
        tokens_KQD=encode_needles(tiny_checkpoint, images, EncodeConfig(dtype="float32")),
        questions=tuple(card.question for card in cards),
        answers=tuple(card.answer for card in cards),
    )


def worker(
    checkpoint: str, config: VniahConfig, haystack: EncodedHaystack, needles: EncodedNeedles
):
    subject = Subject(name="tiny", path=checkpoint, dtype="float32")
    return VniahWorker(subject, config, haystack, needles)


def test_videos_follow_each_other(haystack: EncodedHaystack) -> None:
    tokens_FQD = haystack.tokens(20)
    assert tokens_FQD.shape[0] == 20
    store = ShardStore(haystack.store)
    second = store.open(haystack.video_ids[1], haystack.spec)
    assert torch.equal(tokens_FQD[12:], second.tokens(range(8)))
    with pytest.raises(ValueError, match="24 frames at 1fps, but the grid asks for 25"):
        haystack.tokens(25)


def test_the_needle_is_an_extra_frame_at_its_depth(
    tiny_checkpoint: str, haystack: EncodedHaystack, needles: EncodedNeedles
) -> None:
    tested = worker(tiny_checkpoint, CONFIG, haystack, needles)
    hay_TD = haystack.tokens(20).flatten(0, 1)
    needle_QD = needles.tokens_KQD[1]
    tokens_per_frame = len(needle_QD)

    def embeds(trial: VniahTrial) -> torch.Tensor:
        question = tested._question(trial)
        lengths = [video_FQD[..., 0].numel() for video_FQD in question.items]
        prompt_ids_T = tested._engine.prompt_ids(question.messages, lengths)
        return embed_prompt(tested._engine._lm, prompt_ids_T, question.items)[0]

    def visual_part(trial: VniahTrial) -> torch.Tensor:
        embeds_TD = embeds(trial)
        start = next(t for t in range(len(embeds_TD)) if embeds_TD[t].equal(first_D))
        return embeds_TD[start : start + (trial.num_frames + 1) * tokens_per_frame]

    for depth, place in ((0.0, 0), (0.55, 5), (1.0, 10)):
        first_D = needle_QD[0] if place == 0 else hay_TD[0]
        got = visual_part(VniahTrial(num_frames=10, depth=depth, needle=1))
        cut = place * tokens_per_frame
        wanted = torch.cat([hay_TD[:cut], needle_QD, hay_TD[cut : 10 * tokens_per_frame]])
        assert torch.equal(got, wanted)
    floor = embeds(VniahTrial(num_frames=10, depth=None, needle=1))
    whole = embeds(VniahTrial(num_frames=10, depth=0.0, needle=1))
    assert len(whole) - len(floor) == tokens_per_frame
    assert not any(row.equal(needle_QD[0]) for row in floor)


def test_groups_hold_the_whole_grid_once_from_deep_to_shallow() -> None:
    groups = plan_groups(CONFIG, 2)
    trials = [trial for group in groups for trial in group]
    assert len(trials) == len(set(trials)) == 2 * 3 * 2 + 2 * 2
    assert len({trial.key for trial in trials}) == len(trials)
    places = [{trial.place for trial in group} for group in groups]
    assert all(len(place) == 1 for place in places)
    order = [place.pop() for place in places]
    assert order == sorted(order, reverse=True)
    # At the same place the needle's continuation is shared by both lengths, longest first.
    first = next(group for group in groups if group[0].place == 0)
    assert [trial.num_frames for trial in first] == [20, 10]
    assert len(plan_groups(dataclasses.replace(CONFIG, floor=False), 2)) < len(groups)


def test_prefix_reuse_decides_the_same_and_computes_less(
    tiny_checkpoint: str, haystack: EncodedHaystack, needles: EncodedNeedles
) -> None:
    groups = plan_groups(CONFIG, 2)
    outcomes = []
    for reuse in (True, False):
        config = dataclasses.replace(CONFIG, reuse_prefix=reuse)
        tested = worker(tiny_checkpoint, config, haystack, needles)
        outcomes.append({k: o for group in groups for k, o in tested(group).items()})
        reader = tested._engine.prefix_reader
        if reuse:
            assert reader.tokens_reused > 0.2 * reader.tokens_read
        else:
            assert reader is None
    reused, plain = outcomes
    assert [o["logprob"] for o in reused.values()] == [o["logprob"] for o in plain.values()]
    summary = compare(reused, plain)
    assert summary["trials_with_identical_decisions"] == 16
    assert summary["seconds_plain"] > 0
    plain["f10-0.0000-k0"]["exact"] = not plain["f10-0.0000-k0"]["exact"]
    with pytest.raises(AssertionError, match=r"changed 1 decisions, first f10-0\.0000-k0"):
        compare(reused, plain)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The cap is Yellow.", "yellow", True),
        ("yellowish", "Yellow", False),
        ("each has 200 mg", "200", True),
        ("2000", "200", False),
        ("200.5 mg", "200", False),
        ("1,200", "200", False),
        ("200, or so", "200", True),
        ("1.B", "B", False),
        ("1.yellow", "yellow", True),
        ("B", "B", True),
        ("(B) the panda", "B", True),
        ("b.", "B", True),
        ("It is a panda", "A", False),
        ("A", "B", False),
        ("", "B", False),
        ("the K is red.", "the K is red.", True),
    ],
)
def test_what_counts_as_saying_it(text: str, answer: str, right: bool) -> None:
    assert says(text, answer) is right
