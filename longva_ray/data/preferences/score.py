"""A pair -> a row of preference shards: token ids, and what the reference model thinks of them.

    PreferencePair -> prompt with its visual tokens -> (read once) -> log-probability of each answer

The reference is the model before training. It reads each prompt once for both answers, and its
log-probabilities are stored, so that training holds no second model; or nobody is asked, and
training computes them. Token ids are those of a question and of alignment (`data.images.samples`):
an answer is its text and the token that ends it. What it does not do: encode videos.

Shapes: T tokens of a document, F frames, S visual tokens, D width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from longva_ray.answer.engine import AnswerEngine
from longva_ray.data.images.chat import RawSample, SampleError
from longva_ray.data.images.samples import conversation_tokens
from longva_ray.data.preferences.pairs import PreferencePair, parse_pair
from longva_ray.data.preferences.pixels import MediaPixels
from longva_ray.data.preferences.seen import MediaTokens, Medium, Seen
from longva_ray.data.preferences.shards import PreferenceRow
from longva_ray.lm.prompt import Message
from longva_ray.vision.encoding import GridSettings


class PairScorer:
    """Worker: makes rows of pairs, with the reference model or without."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        engine: AnswerEngine | None,
        seen: Seen,
        grids: GridSettings,
        *,
        frames: int | None,
        max_tokens: int,
        pixels: bool = False,
    ) -> None:
        """
        Args:
            tokenizer: with `<image>`, `<video>` and ChatML's tokens.
            engine: the reference model; None leaves log-probabilities to training.
            grids: how the checkpoint cuts images.
            frames: at most so many frames of a video, spread evenly over the encoded ones.
            max_tokens: longest document, a prompt and an answer.
            pixels: whether rows hold pixels.
        """
        self._tokenizer = tokenizer
        self._engine = engine
        self.seen = seen
        self._tokens = MediaTokens(seen.store, seen.spec, grids)
        self._pixels = MediaPixels(seen.spec, grids) if pixels else None
        self._frames = frames
        self._max_tokens = max_tokens

    def score(self, raw: RawSample) -> PreferenceRow:
        """A pair as its file has it. Raises SampleError for one that cannot be used."""
        return self(parse_pair(raw))

    def __call__(self, pair: PreferencePair) -> PreferenceRow:
        """Raises SampleError for a video that was not encoded, a document too long, or a file that
        has changed since it was encoded."""
        item = pair.item
        if item in self.seen.errors:
            raise SampleError(f"{item.kind} {item.place}: {self.seen.errors[item]}")
        medium = self.seen.media[item]
        frames_F = self._tokens.frames(medium, self._frames)
        num_tokens = self._tokens.count(medium, frames_F)
        self._check_length(num_tokens)
        documents = [self._document(each, num_tokens) for each in (pair.chosen, pair.rejected)]
        for ids_T, _ in documents:
            self._check_length(len(ids_T))
        return PreferenceRow(
            pair_id=pair.pair_id,
            medium=medium,
            frames_F=frames_F,
            input_ids_T=np.concatenate([ids_T for ids_T, _ in documents]),
            document_lengths=tuple(len(ids_T) for ids_T, _ in documents),
            answer_lengths=tuple(length for _, length in documents),
            reference=self._reference(documents, medium, frames_F, num_tokens),
            cut=None if self._pixels is None else self._pixels(item, medium, frames_F),
        )

    def _document(
        self, messages: Sequence[Message], num_visual: int
    ) -> tuple[npt.NDArray[np.int32], int]:
        """Token ids of prompt and answer, and how many of them, the last, are the answer."""
        input_ids_T, is_answer_T = conversation_tokens(self._tokenizer, messages, [num_visual])
        (answer,) = np.nonzero(is_answer_T)
        return input_ids_T[: answer[-1] + 1], len(answer)

    def _reference(
        self,
        documents: Sequence[tuple[npt.NDArray[np.int32], int]],
        medium: Medium,
        frames_F: npt.NDArray[np.int32],
        num_visual: int,
    ) -> tuple[float, ...]:
        """Log-probability of each document's answer after their prompt, which is read once."""
        if self._engine is None:
            return ()
        prompt_T, same_T = (ids_T[: len(ids_T) - length] for ids_T, length in documents)
        assert np.array_equal(prompt_T, same_T), "both answers are to one question"
        tokens_SD = self._tokens.take(medium, frames_F, torch.arange(num_visual))
        prompt = self._engine.read_ids(
            torch.from_numpy(prompt_T).long(), [tokens_SD.to(self._engine.device)]
        )
        answers = [ids_T[len(ids_T) - length :].tolist() for ids_T, length in documents]
        scores = self._engine.score(prompt, answers)
        return tuple(sum(score.token_logprobs) for score in scores)

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self._max_tokens:
            raise SampleError(
                f"{num_tokens} tokens are more than a document holds ({self._max_tokens}); "
                "--preferences.frames takes fewer frames of each video"
            )
