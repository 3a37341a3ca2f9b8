"""Trunks that are shared and kept: the same answers, no wrong one, and never more than allowed."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.branch import Trunk, branch_cache
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.score import score_answer
from longva_ray.answer.sessions import SessionCounts, Sessions
from longva_ray.settings.answering import GenerationSettings


def trunk_of(num_bytes: int) -> Trunk:
    keys, values = torch.zeros(2, 1, 1, num_bytes // 2, 1, dtype=torch.uint8)
    return Trunk(layers=((keys.clone(), values.clone()),))


def told(model: PreTrainedModel, prompt: Prefill) -> tuple[list[int], list[float], torch.Tensor]:
    tokens = list(generate_tokens(model, prompt, GenerationSettings(max_new_tokens=12)))
    scores = [score_answer(model, prompt, answer).logprob for answer in ([3, 1, 4], [1], [5, 9])]
    return tokens, scores, prompt.next_logits_W


@pytest.mark.parametrize("split", [1, 7, 36])
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_a_branch_answers_as_the_whole_prompt_does(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, split: int, chunk: int
) -> None:
    assert use_cached_attention(language_model)
    wanted = told(language_model, prefill(language_model, prompt_1TD, chunk=chunk))
    beginning = prefill(language_model, prompt_1TD[:, :split], chunk=chunk)
    trunk = Trunk.of(beginning.cache)
    before = [part.clone() for layer in trunk.layers for part in layer]

    def ask(_: int) -> Any:
        rest_1TD = prompt_1TD[:, split:]
        cache = branch_cache(trunk)
        prompt = prefill(language_model, rest_1TD, chunk=chunk, cache=cache)
        assert prompt.length == prompt.cache.get_seq_length() == 37
        found = told(language_model, prompt)
        assert prompt.cache.get_seq_length() == 37
        return found

    with ThreadPoolExecutor(4) as threads:  # the trunk is shared by all of them
        for tokens, scores, logits_W in threads.map(ask, range(8)):
            assert tokens == wanted[0]
            assert scores == pytest.approx(wanted[1], abs=1e-4)
            torch.testing.assert_close(logits_W, wanted[2], rtol=1e-4, atol=1e-4)
    after = [part for layer in trunk.layers for part in layer]
    assert all(map(torch.equal, before, after))


def test_many_who_want_the_same_read_it_once() -> None:
    sessions, reads, go = Sessions(1000), [], threading.Event()

    def read() -> Trunk:
        reads.append(1)
        assert go.wait(60)
        return trunk_of(100)

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(sessions.trunk, "a", read, num_bytes=100) for _ in range(8)]
        unwanted = threading.Event()
        gone = threads.submit(sessions.trunk, "a", read, num_bytes=100, unwanted=unwanted)
        unwanted.set()
        go.set()
        trunks = {id(each.result()[0]) for each in asked}
    assert len(trunks) == len(reads) == 1
    assert gone.exception() is None or isinstance(gone.exception(), InterruptedError)
    assert sessions.counts().misses == 1


def test_after_a_failed_reading_the_next_reads() -> None:
    sessions = Sessions(1000)

    def fail() -> Trunk:
        raise ValueError("no such video")

    with pytest.raises(ValueError, match="no such video"):
        sessions.trunk("a", fail, num_bytes=100)
    assert sessions.trunk("a", lambda: trunk_of(100), num_bytes=100)[1] is False
    assert sessions.trunk("a", fail, num_bytes=100)[1] is True


@given(
    wanted=st.lists(st.tuples(st.integers(0, 6), st.sampled_from((2, 40, 90, 300))), max_size=60)
)
def test_a_key_gets_its_own_trunk_and_the_bound_holds(wanted: list[tuple[int, int]]) -> None:
    sessions, order = Sessions(200), []
    for key in wanted:
        mine = trunk_of(key[1])
        trunk, there = sessions.trunk(key, lambda mine=mine: mine, num_bytes=key[1])
        assert trunk.num_bytes == key[1]
        assert there == (key in order)
        assert (trunk is mine) == (not there)
        if there:
            order.remove(key)
        if key[1] <= 200:
            while sum(size for _, size in order) + key[1] > 200:
                order.pop(0)
            order.append(key)
        counts = sessions.counts()
        assert counts.kept == len(order)
        assert counts.kept_bytes == sum(size for _, size in order) <= 200


def test_those_who_wait_for_what_is_too_large_to_keep_are_given_it() -> None:
    sessions, reads, go = Sessions(50), [], threading.Event()

    def read() -> Trunk:
        reads.append(1)
        assert go.wait(60)
        return trunk_of(100)

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(sessions.trunk, "a", read, num_bytes=100) for _ in range(4)]
        while not all(each.running() for each in asked):
            time.sleep(0.01)
        time.sleep(0.2)  # until they wait
        go.set()
        trunks = {id(each.result()[0]) for each in asked}
    assert len(trunks) == len(reads) == 1
    assert sessions.counts() == SessionCounts(hits=3, misses=1)


def test_whoever_waits_for_a_client_that_leaves_reads_himself() -> None:
    sessions, begun, go = Sessions(1000), threading.Event(), threading.Event()

    def leave() -> Trunk:
        begun.set()
        assert go.wait(60)
        raise InterruptedError("the client of this prompt has gone")

    with ThreadPoolExecutor(2) as threads:
        left = threads.submit(sessions.trunk, "a", leave, num_bytes=100)
        assert begun.wait(60)
        other = threads.submit(sessions.trunk, "a", lambda: trunk_of(100), num_bytes=100)
        time.sleep(0.2)  # until it waits
        go.set()
        assert isinstance(left.exception(), InterruptedError)
        assert other.result()[1] is False


@pytest.mark.parametrize("max_bytes", [0, 100, 200, 1000])
def test_many_threads_leave_counts_that_are_right_and_nothing_behind(max_bytes: int) -> None:
    sessions = Sessions(max_bytes)
    trunks = [trunk_of(size) for size in (2, 40, 90, 90, 300)]
    mistakes: list[tuple[str, str]] = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            key, end, unwanted = rng.randrange(5), rng.randrange(4), threading.Event()
            if end == 0:
                unwanted.set()

            def read(key: int = key, end: int = end) -> Trunk:
                time.sleep(rng.random() / 1000)
                if end == 1:
                    raise ValueError(f"of {seed}")
                if end == 0:
                    raise InterruptedError
                return trunks[key]

            try:
                trunk, _ = sessions.trunk(key, read, num_bytes=50, unwanted=unwanted)
            except ValueError as error:
                mistakes.append((str(error), f"of {seed}"))
            except InterruptedError:
                assert unwanted.is_set()
            else:
                assert trunk is trunks[key]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    assert all(error == own for error, own in mistakes)
    sizes = []
    for key, trunk in enumerate(trunks):

        def nobody() -> Trunk:
            raise LookupError

        try:
            assert sessions.trunk(key, nobody, num_bytes=0)[0] is trunk
            sizes.append(trunk.num_bytes)
        except LookupError:
            pass
    counts = sessions.counts()
    assert counts.kept == len(sizes)
    assert counts.kept_bytes == sum(sizes) <= max_bytes
