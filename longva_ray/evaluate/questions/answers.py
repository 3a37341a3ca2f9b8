"""What one model said to all questions that it could be asked, wherever it ran."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.report import Answered
from longva_ray.evaluate.questions.worker import QuestionTrial, at_counts, plan_groups


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Questions about videos and images that were found, each with each number of frames."""

    records: Sequence[QuestionRecord]
    ids: Mapping[Item, str]
    """Of each video and image, by how the questions name it; the others are not asked about."""
    num_frames: Mapping[str, int]
    """Frames that can be read of each video, by its id."""
    counts: Sequence[int | None]
    """Most frames that are read of a video; None, as many as the settings say."""

    def groups(self) -> list[list[QuestionTrial]]:
        """Trials about the same frames of the same video, or the same image."""
        return [
            group
            for each in plan_groups(self.records, self.ids)
            for group in at_counts(each, self.counts, self.num_frames.get(each[0].item_id))
        ]

    def answered(
        self, outcomes: Mapping[str, TrialOutcome], without: Container[str] = ()
    ) -> dict[int | None, list[Answered]]:
        """Every question in the order of the file, for each count, `without` those of these ids."""
        trials = [
            QuestionTrial(record=record, item_id=self.ids[record.item])
            for record in self.records
            if record.item in self.ids and record.id not in without
        ]
        found: dict[int | None, list[Answered]] = {}
        for count in self.counts:
            keys = [each.among(count, self.num_frames.get(each.item_id)).key for each in trials]
            found[count] = [
                Answered(record=trial.record, item_id=trial.item_id, outcome=outcomes[key])
                for trial, key in zip(trials, keys, strict=True)
            ]
        return found


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswers:
    """One model's part of the report, before anything is counted."""

    described: Mapping[str, Any]
    """Its name, where it is, and what decides its answers."""
    by_count: Mapping[int | None, Sequence[Answered]]
    """For each number of frames; None is the only one where there are not several."""
    not_asked: Sequence[Mapping[str, Any]]
    """Videos and images that could not be read, why, and which questions are about them."""


def not_asked(records: Sequence[QuestionRecord], errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """An entry for each video and image, and each error, from errors by the id of the question."""
    found: dict[tuple[Item, str], list[str]] = {}
    for record in records:
        if record.id in errors:
            found.setdefault((record.item, errors[record.id]), []).append(record.id)
    return [
        {item.kind: item.place, "error": error, "questions": ids}
        for (item, error), ids in found.items()
    ]


def errors_by_question(
    records: Sequence[QuestionRecord], errors: Mapping[Item, str]
) -> dict[str, str]:
    """The errors of videos and images, by the id of each question about them."""
    return {record.id: errors[record.item] for record in records if record.item in errors}


def check_any(ids: Mapping[Item, str], errors: Mapping[Item, str]) -> None:
    """Raises ValueError when not one video or image can be asked about."""
    if not ids:
        first, why = next(iter(errors.items()))
        raise ValueError(
            f"none of {len(errors)} video(s) and image(s) can be read; the first is {first.place}: "
            f"{why}"
        )
