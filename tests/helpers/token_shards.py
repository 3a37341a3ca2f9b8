"""Small token shards."""

from pathlib import Path

import numpy as np
from byte_tokenizer import byte_tokenizer

from longva_ray.data.text.shards import TokenSequence, TokenShardsMetadata, TokenShardWriter
from longva_ray.lm.fingerprints import tokenizer_fingerprint

LENGTH = 8


def sequence(first: int, lengths: tuple[int, ...] = (3, 5), padding: int = 0) -> TokenSequence:
    ids_T = np.arange(first, first + LENGTH, dtype=np.int32)
    return TokenSequence(marked_ids_T=ids_T, document_lengths=lengths, num_padding=padding)


def write_token_shards(folder: Path, parts: list[list[TokenSequence]]) -> TokenShardsMetadata:
    writer = TokenShardWriter(str(folder), content_key="k", sequence_length=LENGTH)
    records = [writer.write_part(number, part) for number, part in enumerate(parts)]
    rows = [row for part in parts for row in part]
    padding = sum(row.num_padding for row in rows)
    metadata = TokenShardsMetadata(
        sequence_length=LENGTH,
        num_sequences=len(rows),
        num_tokens=len(rows) * LENGTH - padding,
        num_padding=padding,
        largest_id=max(record.largest_id for record in records),
        tokenizer_fingerprint=tokenizer_fingerprint(byte_tokenizer()),
        vocabulary_size=261,
        separator_id=258,
        seed=0,
        source=("a.jsonl",),
        source_fingerprint="f",
        content_key="k",
        settings={"sequence_length": LENGTH},
        versions={"numpy": np.__version__},
        part_sequences=tuple(record.num_sequences for record in records),
        part_bytes=tuple(record.num_bytes for record in records),
    )
    writer.commit(metadata)
    return metadata
