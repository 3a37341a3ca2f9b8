"""Documents -> token ids on disk, where the packing finds them (`groups`).

    files of a group -> documents -> ids of each, with its separator -> tokens and index

Every document carries its separator: BOS before it or EOS after it. With labels in a text, the ids
of the other tokens are marked as read only.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from longva_ray.data.held_out import digest_number
from longva_ray.data.text.documents import BadRecord, SourceDocument
from longva_ray.data.text.files import SourceFile, TextError
from longva_ray.data.text.groups import (
    TOKEN_DTYPE,
    GroupCounts,
    group_index,
    index_name,
    tokens_name,
)
from longva_ray.data.text.shards import mark_read_only
from longva_ray.data.text.sources import read_documents
from longva_ray.files.digest import Digest
from longva_ray.files.folder import Folder
from longva_ray.settings.data import TextDataConfig

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**21
_KEPT_MESSAGES = 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Separator:
    """The token between documents, and the side of a document it stands on."""

    token_id: int
    side: Literal["before", "after"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokeniseSpec:
    """What a worker needs to know besides its files."""

    tokenizer: PreTrainedTokenizerBase
    """Travels with the worker, so that nodes need no access to the checkpoint."""
    separator: Separator
    config: TextDataConfig


def resolve_separator(tokenizer: PreTrainedTokenizerBase, name: str) -> Separator:
    """The separator that `TextDataConfig.separator` names.

    Raises ValueError for a token that the tokenizer does not have.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if name in ("auto", "bos") and bos is not None:
        return Separator(token_id=bos, side="before")
    if name in ("auto", "eos") and eos is not None:
        return Separator(token_id=eos, side="after")
    vocabulary = tokenizer.get_vocab()
    if name not in vocabulary:
        raise ValueError(
            f"separator {name!r} is no token of this tokenizer, whose BOS is "
            f"{tokenizer.bos_token!r} and EOS {tokenizer.eos_token!r}; name one of its special "
            f"tokens: {', '.join(tokenizer.all_special_tokens)}"
        )
    return Separator(token_id=vocabulary[name], side="after")


class TokeniseGroup:
    """Worker: tokenises the files of one group into the work folder."""

    def __init__(self, work: Folder, spec: TokeniseSpec) -> None:
        self._work = work
        self._spec = spec

    def __call__(self, group: int, files: Sequence[SourceFile]) -> int:
        """Write tokens and index of a group; returns its number of documents.

        Raises TextError for a record that cannot be read, unless the settings say to skip it.
        """
        # Tasks run side by side already; threads of the tokenizer on top would only compete.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        config = self._spec.config
        tally = _Tally(skip=config.on_error == "skip")
        digest = Digest()
        lengths: list[int] = []
        domains: list[str] = []
        numbers: list[int] | None = None if config.held_out is None else []
        with self._work.writing(tokens_name(group)) as out:
            for batch in _batches(tally.documents(files, config)):
                for document, ids in zip(batch, self._tokenise(batch), strict=True):
                    out.write(ids.tobytes())
                    digest.add(ids.data)
                    lengths.append(len(ids))
                    domains.append(document.domain)
                    if numbers is not None:
                        numbers.append(digest_number(config.seed, ids.data))
        counts = GroupCounts(
            empty=dict(tally.empty),
            unreadable=tally.unreadable,
            messages=tuple(tally.messages),
            tokens_blake2b=digest.hex(),
        )
        self._work.write(index_name(group), group_index(lengths, domains, counts, numbers))
        return len(lengths)

    def _tokenise(self, batch: Sequence[SourceDocument]) -> Iterator[npt.NDArray[np.int32]]:
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
    document: SourceDocument, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
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

    def documents(
        self, files: Iterable[SourceFile], config: TextDataConfig
    ) -> Iterator[SourceDocument]:
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


def _batches(documents: Iterable[SourceDocument]) -> Iterator[list[SourceDocument]]:
    """Documents by the batch, bounded in number and in characters."""
    batch: list[SourceDocument] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
