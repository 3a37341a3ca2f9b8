"""The needle test on text: one number hidden in long essays, asked for at the end.

    prefix | essays ... needle ... essays | question | answer        exactly `length` tokens

Appendix A of the paper: "The special magic Singapore number is: 1234567." lies at a sentence end
near the wanted depth, with 0, 3 or 5 needles about other cities at random sentence ends. An answer
is right when, teacher-forced, every token of the number is the likeliest one. The outcome also
records whether the model says the number when it answers freely, as a whole number and not as
digits of a longer one. The number of every prompt is
drawn anew from the seed and the trial, so trials are independent and do not change when the grid
grows.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.subjects import Subject, load_subject
from longva_ray.evaluate.text.haystack import Haystack
from longva_ray.evaluate.text.perplexity import Window, nll_by_position
from longva_ray.evaluate.verdicts import AFTER_NUMBER, BEFORE_NUMBER, judge
from longva_ray.settings.needles import NiahConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NiahTrial:
    """One prompt of the grid."""

    distractors: int
    length: int
    depth: float
    sample: int

    @property
    def key(self) -> str:
        """Name in the ledger; also what the trial's random numbers come from."""
        return f"d{self.distractors}-n{self.length}-{self.depth:.4f}-s{self.sample}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NeedlePrompt:
    """A trial as tokens."""

    prompt_ids: list[int]
    answer_ids: list[int]
    number: str
    depth: float
    """Where the needle really lies, after snapping to a sentence end."""


def plan_trials(config: NiahConfig) -> list[NiahTrial]:
    """All trials of the grid, in the order in which consecutive prompts share most: from the needle
    that lies furthest to the one at the beginning, all lengths mixed."""
    trials = [
        NiahTrial(distractors=distractors, length=length, depth=depth, sample=sample)
        for distractors in config.distractors
        for length in config.lengths
        for depth in config.depths
        for sample in range(config.samples)
    ]
    return sorted(trials, key=lambda t: (t.distractors, -t.depth * t.length, -t.length, t.sample))


def plan_windows(config: NiahConfig) -> list[Window]:
    """Stretches of plain essays whose perplexity is measured."""
    count = config.perplexity_windows
    return [Window(number=number, count=count) for number in range(count)]


def gives_number(text: str, number: str) -> bool:
    """Whether a free answer gives a number: these digits, and no longer number that they are part
    of."""
    return re.search(f"{BEFORE_NUMBER}{number}{AFTER_NUMBER}", text) is not None


class NiahPrompts:
    """Builds the prompts of trials for one tokenizer."""

    def __init__(self, config: NiahConfig, essays: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._prefix = self._with_bos(config.prefix)
        self._haystack = Haystack(essays, tokenizer, min_tokens=max(config.lengths))

    def build(self, trial: NiahTrial) -> NeedlePrompt:
        """The prompt of a trial; prompt and answer together have exactly `trial.length` tokens.

        Raises ValueError when needles and question alone are longer than that."""
        config = self._config
        rng = random.Random(f"{config.seed} {trial.key}")
        cities = rng.sample(config.cities, len(config.cities))
        city = config.city or cities[0]
        others = [other for other in cities if other != city][: trial.distractors]
        first = 10 ** (config.digits - 1)
        number, *lies = (str(n) for n in rng.sample(range(first, 10 * first), 1 + len(others)))
        needle = self._encode(config.needle.format(city=city, number=number))
        question = self._encode(config.question.format(city=city))
        space, answer = self._answer_tokens(config.answer.format(number=number))
        inserted = [
            self._encode(config.needle.format(city=other, number=lie))
            for other, lie in zip(others, lies, strict=True)
        ]
        fixed = len(self._prefix) + len(needle) + sum(map(len, inserted))
        size = trial.length - fixed - len(question) - len(space) - len(answer)
        if size < 1:
            raise ValueError(
                f"a length of {trial.length} tokens leaves no room for a haystack: needles, "
                f"question and answer take {trial.length - size}; ask for longer lengths"
            )
        place = self._haystack.snap(trial.depth * size, size)
        pieces = [(place, needle)]
        for tokens in inserted:
            pieces.append((self._haystack.snap(rng.uniform(0, size), size), tokens))
        story = self._insert(size, pieces)
        return NeedlePrompt(
            prompt_ids=self._prefix + story + question + space,
            answer_ids=answer,
            number=number,
            depth=place / size,
        )

    def window(self, window: Window) -> list[int]:
        """A stretch of the essays without needles, for perplexity: as long as the longest prompt,
        or as the essays are. Beyond their end the same text would begin again, which any model
        could copy.

        Stretches begin at places spread over all essays, so that they are different text.
        """
        ids = self._haystack.token_ids
        distinct = len(ids) // self._haystack.repeats
        length = min(max(self._config.lengths) + 1, distinct)
        start = window.number * distinct // window.count
        return [ids[(start + offset) % len(ids)] for offset in range(length)]

    def _insert(self, size: int, pieces: list[tuple[int, list[int]]]) -> list[int]:
        story: list[int] = []
        last = 0
        for place, tokens in sorted(pieces, key=lambda piece: piece[0]):
            story += self._haystack.token_ids[last:place] + tokens
            last = place
        return story + self._haystack.token_ids[last:size]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _with_bos(self, text: str) -> list[int]:
        """The text after what the tokenizer begins a sequence with, if anything."""
        bos = self._tokenizer.bos_token_id
        begins = bos is not None and self._tokenizer.encode("")[:1] == [bos]
        return [bos] * begins + self._encode(text)

    def _answer_tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Leading blanks, which belong to the prompt, and the tokens that are scored."""
        ids = self._encode(text)
        blanks = 0
        while blanks < len(ids) - 1 and not str(self._tokenizer.decode(ids[: blanks + 1])).strip():
            blanks += 1
        return ids[:blanks], ids[blanks:]


class NiahWorker:
    """Trials and windows -> outcomes; holds the model for the life of the worker."""

    def __init__(
        self,
        subject: Subject,
        config: NiahConfig,
        essays: str,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._config = config
        self._engine = load_subject(subject, config, group)
        self._prompts = NiahPrompts(config, essays, self._engine.tokenizer)

    def __call__(self, work: Sequence[NiahTrial | Window]) -> dict[str, TrialOutcome]:
        return {
            item.key: self._ask(item) if isinstance(item, NiahTrial) else self._predict(item)
            for item in work
        }

    def _ask(self, trial: NiahTrial) -> TrialOutcome:
        needle = self._prompts.build(trial)
        judged = judge(
            self._engine,
            self._engine.read_ids(torch.tensor(needle.prompt_ids)),
            needle.number,
            needle.answer_ids,
            self._config,
            gives=lambda text: gives_number(text, needle.number),
        )
        return dataclasses.asdict(trial) | judged | {"true_depth": needle.depth}

    def _predict(self, window: Window) -> TrialOutcome:
        edges, means = nll_by_position(self._engine, self._prompts.window(window))
        return {"window": window.number, "edges": edges, "nll": means}
