"""Small texts, and settings under which preparing them takes many groups, parts and documents."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from longva_ray.data.text.pipeline import prepare_text
from longva_ray.data.text.report import TextReport, read_report
from longva_ray.settings.data import TextDataConfig

CONFIG = TextDataConfig(
    sequence_length=512,
    upsample_longer_than=200,
    upsample_factor=4,
    domain_field="domain",
    part_tokens=16 * 512,
    group_bytes=20_000,
    task_cpus=0.5,
    seed=7,
)


def texts_of(seed: int, num_documents: int = 400) -> list[dict[str, str]]:
    """Documents that know their number, most shorter than 200 bytes and some of several
    sequences."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(num_documents):
        domain = str(rng.choice(["web", "wiki", "b\u00fccher"], p=[0.6, 0.3, 0.1]))
        length = int(rng.lognormal({"web": 4.0, "wiki": 5.0}.get(domain, 6.5), 0.9)) + 10
        text = f"<{number}>" + "x\u00e4\u4e2d"[number % 3] * length
        records.append({"text": text[:length], "domain": domain})
    return records


def write_jsonl(path: Path, records: list[dict[str, str]], blank: int = 0) -> Path:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    lines += [json.dumps({"text": "", "domain": "web"})] * blank
    content = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zst":
        content = pa.Codec("zstd").compress(content, asbytes=True)
    path.write_bytes(content)
    return path


def shard_files(folder: Path) -> dict[str, str]:
    """Digests, because pytest needs minutes to show where two long byte strings differ."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def prepare(
    texts: Path, output: Path, tokenizer: str, config: TextDataConfig = CONFIG
) -> TextReport:
    prepare_text([str(texts)], output=str(output), checkpoint=tokenizer, config=config)
    return read_report(str(output))
