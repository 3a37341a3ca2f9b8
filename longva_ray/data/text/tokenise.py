"""Documents -> token ids on disk, where the packing finds them.

    group of files -> group-00000.tokens  (int32 ids of all its documents, one behind the other)
                      group-00000.arrow   (length and domain of each document, counts; written last)

Groups are the unit of parallel work and of resuming. Their borders follow from the files alone, and
the documents of all groups in order are the documents of all files in order. Token files are raw,
so that a packer can read any document with one ranged read, from a disk or an object store. Every
document carries its separator: BOS in front or EOS behind.

Shapes: D documents.
"""

import collections
import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
from transformers import PreTrainedTokenizerBase

from longva_ray.data.text.files import SourceFile, TextError
from longva_ray.data.text.shards import mark_read_only
from longva_ray.data.text.sources import BadRecord, Document, read_documents
from longva_ray.files.folder import INCOMING, write_atomically
from longva_ray.files.places import open_place
from longva_ray.settings.base import from_dict
from longva_ray.settings.data import TextDataConfig

TOKEN_DTYPE = np.dtype("<i4")


MIN_PART_BYTES = 2**20
"""Of a large file; less is not worth a task."""


_BATCH_DOCUMENTS = 256


_BATCH_CHARACTERS = 2**21


_KEPT_MESSAGES = 20


_COUNTS = b"longva_ray.counts"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Separator:
    """The token between documents, and the side of a document it stands on."""

    token_id: int
    side: Literal["before", "behind"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokeniseSpec:
    """What a worker needs to know besides its files."""

    tokenizer: PreTrainedTokenizerBase
    """Travels with the worker, so that nodes need no access to the checkpoint."""
    separator: Separator
    config: TextDataConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GroupCounts:
    """What became of the records of a group that are no documents, and a digest of its tokens."""

    empty: dict[str, int]
    """Documents without text, for each domain."""
    unreadable: int
    messages: tuple[str, ...]
    """What was wrong with the first unreadable ones."""
    tokens_blake2b: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenisedGroup:
    """The index of one group."""

    lengths_D: npt.NDArray[np.int32]
    """Tokens of each document, its separator included."""
    domains_D: npt.NDArray[np.int32]
    """Number of each document's domain in `domain_names`."""
    domain_names: tuple[str, ...]
    counts: GroupCounts


def resolve_separator(tokenizer: PreTrainedTokenizerBase, name: str) -> Separator:
    """The separator that `TextDataConfig.separator` names.

    Raises ValueError for a token that the tokenizer does not have.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if name in ("auto", "bos") and bos is not None:
        return Separator(token_id=bos, side="before")
    if name in ("auto", "eos") and eos is not None:
        return Separator(token_id=eos, side="behind")
    vocabulary = tokenizer.get_vocab()
    if name not in vocabulary:
        raise ValueError(
            f"separator {name!r} is no token of this tokenizer, whose BOS is "
            f"{tokenizer.bos_token!r} and EOS {tokenizer.eos_token!r}; name one of its special "
            f"tokens: {', '.join(tokenizer.all_special_tokens)}"
        )
    return Separator(token_id=vocabulary[name], side="behind")


def group_files(files: Sequence[SourceFile], group_bytes: int) -> list[tuple[SourceFile, ...]]:
    """Consecutive files together, each group as long as it stays within `group_bytes`; each part of
    a larger file of JSON lines by itself."""
    groups: list[list[SourceFile]] = []
    size = 0
    for part in (part for file in files for part in file.parts(max(group_bytes, MIN_PART_BYTES))):
        start, stop = part.span or (0, part.num_bytes)
        if not groups or size + stop - start > group_bytes:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += stop - start
    return [tuple(group) for group in groups]


def read_group(work: str, group: int) -> TokenisedGroup | None:
    """The index of a group, or None if its tokens are not all there."""
    filesystem, root = open_place(work)
    try:
        with filesystem.open_input_file(f"{root}/{index_name(group)}") as file:
            table = pa.ipc.open_file(file).read_all()
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    names = table.schema.field("domain").type
    assert isinstance(names, pa.DictionaryType)
    domain = table.column("domain").combine_chunks()
    lengths = table.column("length").to_numpy()
    info = filesystem.get_file_info(f"{root}/{tokens_name(group)}")
    if info.size != TOKEN_DTYPE.itemsize * int(lengths.sum(dtype=np.int64)):
        return None
    return TokenisedGroup(
        lengths_D=lengths,
        domains_D=domain.indices.to_numpy(),
        domain_names=tuple(domain.dictionary.to_pylist()),
        counts=from_dict(GroupCounts, json.loads(table.schema.metadata[_COUNTS])),
    )


def tokens_name(group: int) -> str:
    return f"group-{group:05d}.tokens"


def index_name(group: int) -> str:
    return f"group-{group:05d}.arrow"


class TokeniseGroup:
    """Worker: tokenises the files of one group into the work folder."""

    def __init__(self, work: str, spec: TokeniseSpec) -> None:
        self._work = work
        self._spec = spec

    def __call__(self, group: int, files: Sequence[SourceFile]) -> int:
        """Write tokens and index of a group; returns its number of documents.

        Raises TextError for a record that cannot be read, unless the settings say to skip it.
        """
        # Tasks run side by side already; threads of the tokenizer on top would only compete.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        filesystem, root = open_place(self._work)
        tally = _Tally(skip=self._spec.config.on_error == "skip")
        digest = hashlib.blake2b(digest_size=16)
        lengths: list[int] = []
        domains: list[str] = []
        temporary = f"{root}/{INCOMING}/{uuid.uuid4().hex}"
        filesystem.create_dir(f"{root}/{INCOMING}", recursive=True)
        with filesystem.open_output_stream(temporary) as out:
            for batch in _batches(tally.documents(files, self._spec.config)):
                for document, ids in zip(batch, self._tokenise(batch), strict=True):
                    out.write(ids.tobytes())
                    digest.update(ids.data)
                    lengths.append(len(ids))
                    domains.append(document.domain)
        filesystem.move(temporary, f"{root}/{tokens_name(group)}")
        counts = GroupCounts(
            empty=dict(tally.empty),
            unreadable=tally.unreadable,
            messages=tuple(tally.messages),
            tokens_blake2b=digest.hexdigest(),
        )
        write_atomically(filesystem, root, index_name(group), _index(lengths, domains, counts))
        return len(lengths)

    def _tokenise(self, batch: Sequence[Document]) -> Iterator[npt.NDArray[np.int32]]:
        spec = self._spec
        encoded = spec.tokenizer(
            [document.text for document in batch],
            add_special_tokens=False,
            split_special_tokens=not spec.config.parse_special_tokens,
            return_attention_mask=False,
            return_offsets_mapping=spec.config.labels_field is not None,
            verbose=False,  # texts may be longer than the model's context: they are cut later
        )
        for index, (document, ids) in enumerate(zip(batch, encoded["input_ids"], strict=True)):
            if document.labels is not None:
                ids = _read_only_outside(document, ids, encoded["offset_mapping"][index])
            separator = [spec.separator.token_id]
            whole = separator + ids if spec.separator.side == "before" else ids + separator
            yield np.array(whole, dtype=TOKEN_DTYPE)


def _read_only_outside(
    document: Document, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> list[int]:
    """Token ids, those whose last character is no label marked (`mark_read_only`)."""
    # One character more: tokens of no characters end at 0 and look at the last entry.
    is_label = np.zeros(len(document.text) + 1, np.bool_)
    for start, stop in document.labels or ():
        is_label[start:stop] = True
    last = np.array([end for _, end in offsets], np.int64) - 1
    return mark_read_only(np.array(ids, TOKEN_DTYPE), ~is_label[last]).tolist()


class _Tally:
    """Lets documents through, counting what is left out."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self.empty: collections.Counter[str] = collections.Counter()
        self.unreadable = 0
        self.messages: list[str] = []

    def documents(self, files: Iterable[SourceFile], config: TextDataConfig) -> Iterator[Document]:
        for file in files:
            for item in read_documents(file, config):
                if isinstance(item, BadRecord):
                    self._bad(item)
                elif item.text:
                    yield item
                else:
                    self.empty[item.domain] += 1

    def _bad(self, record: BadRecord) -> None:
        if not self._skip:
            raise TextError(f"{record.message}; --text.on-error skip leaves such records out")
        self.unreadable += 1
        if len(self.messages) < _KEPT_MESSAGES:
            self.messages.append(record.message)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents by the batch, bounded in number and in characters."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _index(lengths: list[int], domains: list[str], counts: GroupCounts) -> pa.Buffer:
    names = sorted(set(domains))
    number = {name: index for index, name in enumerate(names)}
    codes = pa.array([number[domain] for domain in domains], pa.int32())
    table = pa.table(
        {
            "length": pa.array(lengths, pa.int32()),
            "domain": pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())),
        }
    ).replace_schema_metadata({_COUNTS: json.dumps(dataclasses.asdict(counts)).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
