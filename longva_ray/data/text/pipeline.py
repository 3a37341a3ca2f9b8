"""Text -> token shards, in parallel and resumable.

    files -> tokenise groups -> plan -> pack parts -> manifest
             (tasks)            (driver: (tasks)      (driver)
                                 numbers)

Ray decides where and when, never what: groups and parts are numbered beforehand, every task writes
files that follow from its number, and the plan is made from the lengths of all documents. One task
or a hundred give the same bytes. Finished groups and parts stay on disk, so a killed run goes on
where it stopped; the tokens between the two steps lie in `<output>/.work` until the manifest is
written. The driver holds about 50 bytes for each document.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from longva_ray.data.held_out import choose_held_out
from longva_ray.data.preparation import check_same, deciding_settings, run_missing
from longva_ray.data.text.corpus import CorpusIndex, PackPart, PartPlan, part_plans
from longva_ray.data.text.files import SourceFile, find_files, source_fingerprint
from longva_ray.data.text.groups import TokenisedGroup, group_files, read_group
from longva_ray.data.text.mixture import count_copies
from longva_ray.data.text.packing import IntArray, pack, shuffled_stream
from longva_ray.data.text.report import REPORT_NAME, TextReport, plot_report
from longva_ray.data.text.shards import (
    TOKEN_SHARDS,
    TokenPart,
    TokenShardsMetadata,
    TokenShardWriter,
)
from longva_ray.data.text.tokenise import TokeniseGroup, TokeniseSpec, resolve_separator
from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder
from longva_ray.files.parts import HELD_OUT, clean
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.settings.data import TextDataConfig

logger = logging.getLogger(__name__)

PLOT_NAME = "report.png"

WORK = ".work"

_NOT_DECIDING = ("tokenizer", "task_cpus", "max_tasks")
"""Settings that do not decide what is written; the tokenizer does by its content, not its name."""

_VERSIONS = ("longva-ray", "numpy", "pyarrow", "tokenizers", "transformers")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One preparation: what it reads, what it makes of it, and where."""

    output: Folder
    work: Folder
    files: tuple[SourceFile, ...]
    spec: TokeniseSpec
    fingerprint: str
    """Of the tokenizer."""
    settings: dict[str, Any]
    """Those that decide what is written."""

    @property
    def config(self) -> TextDataConfig:
        return self.spec.config


def prepare_text(
    places: Sequence[str], *, output: str, checkpoint: str, config: TextDataConfig
) -> TokenShardsMetadata:
    """Turn text into token shards in `output`, a folder or URI that every node reaches.

    Next to the shards lie report.json and report.png. Shards that are already there, made from the
    same files in the same way, are left as they are.

    Args:
        places: files, folders and URIs, in the order that numbers the documents.
        output: where the shards go.
        checkpoint: whose tokenizer to use; only the driver loads it.

    Raises ValueError for text that cannot be read (`TextError` names file and line), a folder that
    holds other shards, or settings that cannot be met.
    """
    files = find_files(places)
    tokenizer = load_tokenizer(checkpoint)
    run = _plan_run(files, output, tokenizer, config)
    complete = _existing(run)
    if complete is not None:
        logger.info("%s already holds these shards", output)
        return complete
    started = time.perf_counter()
    corpus = CorpusIndex.of(_tokenise(run))
    metadata = _pack(run, corpus)
    logger.info("prepared %d tokens in %.1f s", metadata.num_tokens, time.perf_counter() - started)
    return metadata


def _plan_run(
    files: list[SourceFile],
    output: str,
    tokenizer: PreTrainedTokenizerBase,
    config: TextDataConfig,
) -> _Run:
    spec = TokeniseSpec(
        tokenizer=tokenizer,
        separator=resolve_separator(tokenizer, config.separator),
        config=config,
    )
    fingerprint = tokenizer_fingerprint(tokenizer)
    settings = deciding_settings(config, _NOT_DECIDING)
    settings["upsample_factor"] = float(config.upsample_factor)  # 4 and 4.0 are the same run
    key = digest_of(json.dumps([source_fingerprint(files), fingerprint, settings]))
    return _Run(
        output=Folder(output),
        work=Folder(output).inside(f"{WORK}/{key}"),
        files=tuple(files),
        spec=spec,
        fingerprint=fingerprint,
        settings=settings,
    )


def _existing(run: _Run) -> TokenShardsMetadata | None:
    """The manifest of a run that had finished; ValueError if it is one of another run."""
    if not TOKEN_SHARDS.is_complete(run.output):
        return None
    found = TOKEN_SHARDS.read_manifest(run.output)
    check_same(
        TOKEN_SHARDS,
        run.output.place,
        {
            "source": found.source_fingerprint,
            "tokenizer": found.tokenizer_fingerprint,
            **found.settings,
        },
        {
            "source": source_fingerprint(run.files),
            "tokenizer": run.fingerprint,
            **run.settings,
        },
    )
    _clean(run, found)
    return found


def _tokenise(run: _Run) -> list[TokenisedGroup]:
    groups = group_files(run.files, run.config.group_bytes)
    logger.info("%d files in %d groups", len(run.files), len(groups))
    found = {number: read_group(run.work, number) for number in range(len(groups))}
    run_missing(
        TokeniseGroup(run.work, run.spec),
        [(files,) for files in groups],
        {number: len(group.lengths_D) for number, group in found.items() if group is not None},
        settings=run.config,
        title="tokenising",
        unit="documents",
        size=int,
    )
    found |= {n: read_group(run.work, n) for n, group in found.items() if group is None}
    tokenised = [group for group in found.values() if group is not None]
    if len(tokenised) != len(groups):
        raise OSError(
            f"{run.work.place} misses groups that were just written: the workers and the driver do "
            "not see the same folder; give an output that every node reaches"
        )
    return tokenised


def _pack(run: _Run, corpus: CorpusIndex) -> TokenShardsMetadata:
    """Write the shards, those that are held out first: the manifest of the others says that all are
    there."""
    digests = [counts.tokens_blake2b for counts in corpus.counts]
    content_key = digest_of(json.dumps([digests, run.fingerprint, run.settings]))
    if run.config.held_out is not None:
        corpus = _hold_out(run, corpus, run.config.held_out, digest_of(content_key, HELD_OUT))
    else:  # what an interrupted run with other settings may have left
        run.output.delete(HELD_OUT)
    config = run.config
    copies_D = count_copies(
        corpus.lengths_D,
        corpus.domains_D,
        longer_than=config.upsample_longer_than,
        factor=config.upsample_factor,
        target_tokens=config.target_tokens,
        seed=config.seed,
    )
    metadata = _write(run, corpus, copies_D, folder=run.output, content_key=content_key)
    _clean(run, metadata)
    return metadata


def _hold_out(run: _Run, corpus: CorpusIndex, wanted: float, content_key: str) -> CorpusIndex:
    """Write the shards of the documents that are held out; returns the corpus without them."""
    assert corpus.number_D is not None
    is_held_out_D = choose_held_out(corpus.number_D, wanted)
    # What could not be read is told of the others.
    held_out = dataclasses.replace(corpus.only(is_held_out_D), counts=())
    logger.info("%d of %d documents are held out", len(held_out.lengths_D), len(corpus.lengths_D))
    folder, once = run.output.inside(HELD_OUT), np.ones_like(held_out.lengths_D)
    metadata = _write(run, held_out, once, folder=folder, content_key=content_key)
    clean(folder, len(metadata.part_sequences))
    return corpus.only(~is_held_out_D)


def _write(
    run: _Run, corpus: CorpusIndex, copies_D: IntArray, *, folder: Folder, content_key: str
) -> TokenShardsMetadata:
    """Write shards and report into a folder, every document as often as it was taken."""
    config = run.config
    plan = pack(
        shuffled_stream(copies_D, config.seed),
        corpus.lengths_D,
        sequence_length=config.sequence_length,
        keep_whole=config.keep_whole,
    )
    report = TextReport.of(
        corpus,
        copies_D,
        plan,
        longer_than=config.upsample_longer_than,
        sequence_length=config.sequence_length,
    )
    writer = TokenShardWriter(
        folder.place, content_key=content_key, sequence_length=config.sequence_length
    )
    parts = part_plans(corpus, plan, max(1, config.part_tokens // config.sequence_length))
    records = _write_parts(run, parts, writer)
    metadata = TokenShardsMetadata(
        sequence_length=config.sequence_length,
        num_sequences=report.num_sequences,
        num_tokens=report.num_tokens,
        num_padding=report.num_padding,
        largest_id=max(record.largest_id for record in records),
        tokenizer_fingerprint=run.fingerprint,
        vocabulary_size=len(run.spec.tokenizer),
        separator_id=run.spec.separator.token_id,
        seed=config.seed,
        source=tuple(file.name for file in run.files),
        source_fingerprint=source_fingerprint(run.files),
        content_key=content_key,
        settings=run.settings,
        versions={name: version(name) for name in _VERSIONS},
        part_sequences=tuple(record.num_sequences for record in records),
        part_bytes=tuple(record.num_bytes for record in records),
    )
    folder.write(REPORT_NAME, report.to_json().encode())
    folder.write(PLOT_NAME, plot_report(report))
    writer.commit(metadata)
    return metadata


def _write_parts(run: _Run, parts: list[PartPlan], writer: TokenShardWriter) -> list[TokenPart]:
    pad_id = run.spec.tokenizer.pad_token_id
    worker = PackPart(
        run.work,
        writer,
        sequence_length=run.config.sequence_length,
        pad_id=run.spec.separator.token_id if pad_id is None else pad_id,
    )
    found = {plan.part: writer.existing_part(plan.part, plan.num_sequences) for plan in parts}
    return run_missing(
        worker,
        [(plan,) for plan in parts],
        {part: record for part, record in found.items() if record is not None},
        settings=run.config,
        title="packing",
        unit="sequences",
        size=lambda record: record.num_sequences,
        total=sum(plan.num_sequences for plan in parts),
    )


def _clean(run: _Run, metadata: TokenShardsMetadata) -> None:
    """Delete what only the run needed, and parts that an earlier, larger one left."""
    run.output.delete(WORK)
    clean(run.output, len(metadata.part_sequences))
