"""Text -> token shards, in parallel and resumable: the Ray Data graphs.

    files -> tokenise groups -> plan -> pack parts -> manifest
             (tasks)            (driver: (tasks)      (driver)
                                 numbers)

Ray decides where and when, never what: groups and parts are numbered beforehand, every task writes
files that follow from its number, and the plan is made from all lengths at once. One task or a
hundred give the same bytes. Finished groups and parts stay on disk, so a killed run goes on where
it stopped; the tokens between the two steps lie in `<output>/.work` until the manifest is written.
The driver holds about 50 bytes for each document."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow.fs
from transformers import PreTrainedTokenizerBase

from longva_ray.cluster.tasks import run_tasks
from longva_ray.data.text.corpus import Corpus, PackPart, PartPlan, part_plans
from longva_ray.data.text.files import SourceFile, find_files, source_fingerprint
from longva_ray.data.text.mixture import count_copies
from longva_ray.data.text.packing import pack, shuffled_stream
from longva_ray.data.text.report import REPORT_NAME, TextReport, plot_report
from longva_ray.data.text.shards import (
    MANIFEST_NAME,
    PartRecord,
    TokenShardError,
    TokenShardsMetadata,
    TokenShardWriter,
    read_manifest,
)
from longva_ray.data.text.tokenise import (
    TokenisedGroup,
    TokeniseGroup,
    TokeniseSpec,
    group_files,
    read_group,
    resolve_separator,
)
from longva_ray.files.folder import INCOMING, part_name, write_atomically
from longva_ray.files.places import child, open_place
from longva_ray.lm.base_models import load_tokenizer, tokenizer_fingerprint
from longva_ray.progress import Progress
from longva_ray.settings.data import TextDataConfig

logger = logging.getLogger(__name__)


PLOT_NAME = "report.png"


WORK = ".work"


TASK_MEMORY = 2**30
"""Bytes that Ray reserves for a task: its process, a batch of texts, or one part of tokens."""


_NO_SAY = ("tokenizer", "task_cpus", "max_tasks")
"""Settings that do not decide what is written; the tokenizer does by its content, not its name."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One preparation: what it reads, what it makes of it, and where."""

    output: str
    work: str
    files: tuple[SourceFile, ...]
    spec: TokeniseSpec
    fingerprint: str
    """Of the tokenizer."""
    settings: dict[str, Any]

    @property
    def config(self) -> TextDataConfig:
        return self.spec.config


def prepare_text(
    places: Sequence[str], *, output: str, checkpoint: str, config: TextDataConfig
) -> TokenShardsMetadata:
    """Turn text into token shards in `output`, a folder or URI that every node reaches.

    Beside the shards lie report.json and report.png. Shards that are already there, made from the
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
    corpus = Corpus.of(_tokenise(run))
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
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NO_SAY}
    settings["upsample_factor"] = float(config.upsample_factor)  # 4 and 4.0 are the same run
    decides = [source_fingerprint(files), fingerprint, settings]
    return _Run(
        output=output,
        work=child(output, f"{WORK}/{_hash(decides)}"),
        files=tuple(files),
        spec=spec,
        fingerprint=fingerprint,
        settings=settings,
    )


def _existing(run: _Run) -> TokenShardsMetadata | None:
    """The manifest of a run that had finished; ValueError if it is one of another run."""
    filesystem, root = open_place(run.output)
    if filesystem.get_file_info(f"{root}/{MANIFEST_NAME}").type == pyarrow.fs.FileType.NotFound:
        return None
    found = read_manifest(run.output)
    wanted = {
        "source": source_fingerprint(run.files),
        "tokenizer": run.fingerprint,
        **run.settings,
    }
    has = {
        "source": found.source_fingerprint,
        "tokenizer": found.tokenizer_fingerprint,
        **found.settings,
    }
    different = sorted(key for key in wanted | has if wanted.get(key) != has.get(key))
    if different:
        raise TokenShardError(
            f"{run.output} holds token shards made with another {', '.join(different)}; choose "
            "another output folder, or delete this one"
        )
    _clean(run, found)
    return found


# The two graphs -----------------------------------------------------------------------------------


def _tokenise(run: _Run) -> list[TokenisedGroup]:
    groups = group_files(run.files, run.config.group_bytes)
    found = {index: read_group(run.work, index) for index in range(len(groups))}
    missing = [index for index, group in found.items() if group is None]
    logger.info(
        "%d files in %d groups, %d groups are tokenised already",
        len(run.files),
        len(groups),
        len(groups) - len(missing),
    )
    worker = TokeniseGroup(run.work, run.spec)
    tasks: list[tuple[Any, ...]] = [(index, groups[index]) for index in missing]
    with Progress("tokenising", unit="documents") as progress:
        for _, num_documents in _run_tasks(worker, tasks, run.config):
            progress.advance(num_documents)
    found |= {index: read_group(run.work, index) for index in missing}
    tokenised = [group for group in found.values() if group is not None]
    if len(tokenised) != len(groups):
        raise OSError(
            f"{run.work} misses groups that were just written: the workers and the driver do not "
            "see the same folder; give an output that every node reaches"
        )
    return tokenised


def _pack(run: _Run, corpus: Corpus) -> TokenShardsMetadata:
    config = run.config
    copies_D = count_copies(
        corpus.lengths_D,
        corpus.domains_D,
        longer_than=config.upsample_longer_than,
        factor=config.upsample_factor,
        target_tokens=config.target_tokens,
        seed=config.seed,
    )
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
    digests = [counts.tokens_blake2b for counts in corpus.counts]
    content_key = _hash([digests, run.fingerprint, run.settings])
    parts = part_plans(corpus, plan, max(1, config.part_tokens // config.sequence_length))
    records = _write_parts(run, parts, content_key)
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
    filesystem, root = open_place(run.output)
    write_atomically(filesystem, root, REPORT_NAME, report.to_json().encode())
    write_atomically(filesystem, root, PLOT_NAME, plot_report(report))
    TokenShardWriter(
        run.output, content_key=content_key, sequence_length=config.sequence_length
    ).commit(metadata)
    _clean(run, metadata)
    return metadata


_VERSIONS = ("longva-ray", "numpy", "pyarrow", "tokenizers", "transformers")


def _write_parts(run: _Run, parts: list[PartPlan], content_key: str) -> list[PartRecord]:
    length = run.config.sequence_length
    writer = TokenShardWriter(run.output, content_key=content_key, sequence_length=length)
    pad_id = run.spec.tokenizer.pad_token_id
    worker = PackPart(
        run.work,
        writer,
        sequence_length=length,
        pad_id=run.spec.separator.token_id if pad_id is None else pad_id,
    )
    records = {
        plan.part: record
        for plan in parts
        if (record := writer.existing_part(plan.part, plan.num_sequences)) is not None
    }
    tasks: list[tuple[Any, ...]] = [(plan.part, plan) for plan in parts if plan.part not in records]
    logger.info("%d parts, %d are written already", len(parts), len(records))
    with Progress("packing", unit="sequences", total=sum(p.num_sequences for p in parts)) as bar:
        bar.advance(sum(record.num_sequences for record in records.values()))
        for part, record in _run_tasks(worker, tasks, run.config):
            records[part] = record
            bar.advance(record.num_sequences)
    return [records[plan.part] for plan in parts]


def _run_tasks(
    worker: Callable[..., Any], tasks: list[tuple[Any, ...]], config: TextDataConfig
) -> Iterator[tuple[int, Any]]:
    return run_tasks(
        worker, tasks, cpus=config.task_cpus, memory=TASK_MEMORY, most=config.max_tasks
    )


def _clean(run: _Run, metadata: TokenShardsMetadata) -> None:
    """Delete what only the run needed, and parts that an earlier, larger one left behind."""
    filesystem, root = open_place(run.output)
    expected = {part_name(part) for part in range(len(metadata.part_sequences))}
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(root)):
        is_part = info.base_name.startswith("part-") and info.base_name.endswith(".arrow")
        if info.base_name in (WORK, INCOMING):
            filesystem.delete_dir(info.path)
        elif is_part and info.base_name not in expected:
            filesystem.delete_file(info.path)


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
