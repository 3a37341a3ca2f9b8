"""The walk over a Matroska file's elements: whole files pass, every kind of break is found."""

import struct
from pathlib import Path

import numpy as np
import pytest
from counting_video import write_counting_video

from longva_ray.video.matroska import find_broken_element

UNKNOWN = b"\xff"


def element(identifier: str, *content: bytes) -> bytes:
    body = b"".join(content)
    return bytes.fromhex(identifier) + struct.pack(">Q", len(body) | 1 << 56) + body


def build(*clusters: bytes) -> bytes:
    """A file of two tracks, numbered 1 and 3."""
    tracks = [element("AE", element("D7", bytes([n])), element("83", b"\1")) for n in (1, 3)]
    body = element("1549A966") + element("1654AE6B", *tracks) + b"".join(clusters)
    return element("1A45DFA3", b"head") + bytes.fromhex("18538067") + UNKNOWN + body


def cluster(*blocks: bytes) -> bytes:
    return element("1F43B675", element("E7", b"\0"), *blocks)


VIDEO = element("A3", b"\x81\0\0\0picture")
SOUND = element("A0", element("A1", b"\x83\0\0\0sound"), element("9B", b"\1"))


def walk(folder: Path, content: bytes) -> int | None:
    path = folder / "file.mkv"
    path.write_bytes(content)
    return find_broken_element(path)


def test_whole_files_pass(tmp_path: Path) -> None:
    live = bytes.fromhex("1F43B675") + UNKNOWN + element("E7", b"\0") + VIDEO
    for content in (
        build(cluster(VIDEO, SOUND), element("EC", bytes(30)), cluster(SOUND), element("1C53BB6B")),
        build(live, live),
        build(),
    ):
        assert walk(tmp_path, content) is None


@pytest.mark.parametrize(
    "broken",
    [
        element("A3", b"\x82\0\0\0a track that is not announced"),
        element("77", b"an element that does not exist"),
        bytes(20),
        VIDEO[:-3],
    ],
    ids=["track", "element", "zeros", "cut"],
)
def test_a_broken_element_is_found_where_it_lies(tmp_path: Path, broken: bytes) -> None:
    start = len(build(cluster(VIDEO)))
    whole_header = bytes.fromhex("1F43B675") + UNKNOWN
    assert walk(tmp_path, build(cluster(VIDEO), whole_header, broken)) == start + len(whole_header)


def test_what_is_no_matroska_file_breaks_at_its_beginning(tmp_path: Path) -> None:
    assert walk(tmp_path, b"plain text, nothing else") == 0


def test_every_cut_of_a_written_file_is_found(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.mkv"
    write_counting_video(path, 30, 10)
    content = path.read_bytes()
    assert find_broken_element(path) is None
    for length in np.linspace(100, len(content) - 1, 40, dtype=int):
        assert walk(tmp_path, content[:length]) is not None
