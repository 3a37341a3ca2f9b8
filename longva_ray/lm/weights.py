"""Weights on disk: find a checkpoint, read chosen tensors, write a folder atomically.

    folder + (stored name -> our name | None) -> {our name: tensor}

Only tensors with a name are read, and only files that hold one of them are opened. Where a
checkpoint has no safetensors, as OpenAI's CLIP has none, its `pytorch_model.bin` is read by torch's
unpickler for weights, which runs no code.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longva_ray.files.places import expanded

Rename = Callable[[str], str]


Select = Callable[[str], str | None]


_FILES = ("model.safetensors", "pytorch_model.bin")  # or several files and their index


def checkpoint_folder(path: str | Path) -> Path:
    """The folder of a checkpoint: itself, or the snapshot of a repository on the hub.

    Raises:
        ValueError: no such folder, and no such repository can be had.
    """
    folder = expanded(path)
    if folder.is_dir():
        return folder
    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
        folder = Path(snapshot_download(str(path), allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(str(path), allow_patterns=["pytorch_model*"])
        return folder
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is no folder here and could not be had from the hub either "
            f"({type(error).__name__}: {error}); give the path of a folder with a config.json"
        ) from error


def read_tensors(folder: Path, select: Select, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors that `select` gives a name, cast to `dtype`, in new memory.

    A copy, not a view of the mapped file: the file may be replaced while the model lives.

    Raises:
        ValueError: the folder has no weights, or files of them that cannot be read.
    """
    tensors = {}
    for file, stored_names in _stored_names(folder).items():
        chosen = {stored: name for stored in stored_names if (name := select(stored)) is not None}
        if not chosen:
            continue
        _check_there(folder / file)
        with _open_weights(folder / file) as (there, read):
            if missing := sorted(chosen.keys() - there):
                raise ValueError(
                    f"{folder / file} lacks {missing[0]}, which the index says is there; the "
                    "folder mixes files of two checkpoints: download it again"
                )
            for stored, name in chosen.items():
                tensor = read(stored)
                _check_plain(folder / file, stored, tensor)
                tensors[name] = tensor.to(dtype, copy=True)
    return tensors


def check_readable(folder: Path) -> None:
    """Raises ValueError for a damaged file of weights, or what says how to generate, without which
    transformers would just take other settings; reads no tensor."""
    with contextlib.suppress(FileNotFoundError):
        read_json(folder / "generation_config.json")
    for index in folder.glob("*.index.json"):
        for name in set(_weight_map(index).values()):
            _check_there(folder / name)
    files = list(folder.glob("*.safetensors")) or list(folder.glob("pytorch_model*.bin"))
    for file in sorted(files):
        with _open_weights(file):
            pass


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, want an object")
        return content
    except FileNotFoundError:  # which names the file
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


@contextmanager
def reads_folder(folder: str | Path) -> Iterator[None]:
    """Whatever a library raises while it reads the small files of a checkpoint becomes a ValueError
    that names the folder, and the file where one is damaged. Libraries mostly name neither."""
    try:
        yield
    except Exception as error:
        for file in sorted(Path(folder).glob("*")):
            if file.suffix == ".json":
                read_json(file)
            elif file.is_file() and (told := _damage(file)):
                raise ValueError(f"{file} cannot be read: {told}") from error
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error


@contextmanager
def save_folder(path: Path) -> Iterator[Path]:
    """A folder to write to that takes its name only when all is written.

    Raises:
        ValueError: the path exists already.
    """
    told = f"{path} exists already; remove it or choose another folder"
    if path.exists():
        raise ValueError(told)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        mode = unfinished.stat().st_mode & 0o666
        for file in unfinished.rglob("*"):  # safetensors makes some that only we can read
            if file.is_file():
                file.chmod(mode)
        try:
            unfinished.rename(path)
        except OSError as error:  # another process was faster
            raise ValueError(told) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _stored_names(folder: Path) -> dict[str, list[str]]:
    """Names of the tensors in each weight file."""
    for single in _FILES:
        index = folder / f"{single}.index.json"
        if index.exists():
            files: dict[str, list[str]] = {}
            for name, file in _weight_map(index).items():
                files.setdefault(file, []).append(name)
            return files
        if (folder / single).exists():
            with _open_weights(folder / single) as (names, _):
                return {single: names}
    raise ValueError(f"{folder} has no {' and no '.join(_FILES)}, nor the index of one")


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{index} has no weight_map from names to files; download it again")
    return found


def _check_there(file: Path) -> None:
    if not file.exists():
        raise ValueError(f"{file} is not there, though an index names it; download the rest")


def _check_plain(file: Path, name: str, tensor: Tensor) -> None:
    """Numbers that are no weights by themselves would become others without a word."""
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{file} has {name} as {kind}, so it is quantised: want the weights as float32, "
            "float16 or bfloat16; give the checkpoint that it was made from"
        )


@contextmanager
def _open_weights(file: Path) -> Iterator[tuple[list[str], Callable[[str], Tensor]]]:
    """Names of the tensors in a file, and how to read one; ValueError for a damaged file."""
    try:
        if file.suffix == ".bin":
            tensors = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
            if not isinstance(tensors, dict):
                raise RuntimeError(f"it holds a {type(tensors).__name__}, want tensors by name")
            opened: Any = contextlib.nullcontext()
            names = [name for name, value in tensors.items() if isinstance(value, Tensor)]
            read = tensors.__getitem__
        else:
            opened = handle = safe_open(file, framework="pt")
            names, read = list(handle.keys()), handle.get_tensor
    except FileNotFoundError:  # which names the file
        raise
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _unreadable(file, error) from error
    with opened:
        yield names, read


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} cannot be read: {looks_like(file)}; download the file again and compare its size "
        f"with the original's ({type(error).__name__}: {error})"
    )


def looks_like(file: Path) -> str:
    """What a file of a checkpoint that cannot be read seems to hold."""
    if told := _damage(file):
        return told
    with file.open("rb") as content:
        if content.read(64).lstrip()[:1] == b"<":
            return "it is a web page, so the download needed a login or failed"
    return f"it has {file.stat().st_size:,} bytes and is cut short or of another format"


def _damage(file: Path) -> str | None:
    """What is wrong with a file of any format, if that shows."""
    if not file.is_file():
        return "it is no file"
    with file.open("rb") as content:
        start = content.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git-LFS pointer, not the content that it stands for; run `git lfs pull`"
    return None if start else "it is empty"
