"""Which `image_url` parts are read, what is said of the others, and how they are counted."""

import asyncio
import base64
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from pictures import data_url
from pydantic import ValidationError

from longva_ray.serving.allowed_files import AllowedFiles
from longva_ray.serving.api import ApiError, ChatRequest
from longva_ray.serving.image_source import ImageSource
from longva_ray.serving.understand import Understanding


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    """Reads below a folder, 1000 bytes an image."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a b.png").write_bytes(b"content")
    (tmp_path / "root" / "large.png").write_bytes(bytes(1001))
    (tmp_path / "root" / "link.png").symlink_to("/etc/hostname")
    (tmp_path / "root" / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "root" / "pipe")
    return ImageSource(AllowedFiles([tmp_path / "root"]), max_bytes=1000)


def test_what_is_read(source: ImageSource, tmp_path: Path) -> None:
    url = (tmp_path / "root" / "a b.png").as_uri()
    assert source.content(url, "it") == b"content"
    for content in (b"", b"content", bytes(range(256)) * 3 + bytes(232)):
        assert source.content(data_url(content), "it") == content
    path = url[7:]
    for same in (f"FILE://LocalHost{path}", f"file:{path}", f" file://{unquote(path)}"):
        assert source.content(same, "it") == b"content"
    lines = base64.encodebytes(bytes(range(256)) * 3).decode()
    for written in (lines, quote(lines, safe=""), f" {lines}"):
        url = f"data:image/png;charset=utf-8;base64,{written}"
        assert source.content(url, "it") == bytes(range(256)) * 3
    assert source.content("DATA:Image/WebP;name=x;BASE64,AAAA", "it") == bytes(3)


@pytest.mark.parametrize(
    ("url", "status", "code", "message"),
    [
        ("https://example.org/a.png", 400, "unsupported_url", "image_url 'https://example.org/a"),
        ("f" * 32, 400, "unsupported_url", "is neither data:image/...;base64,... nor file:///path"),
        ("data:image/png,notbase64", 400, "unsupported_url", "want data:image/...;base64,"),
        ("data:video/mp4;base64,AAAA", 400, "unsupported_url", "begins with 'data:video/mp4"),
        ("data:", 400, "unsupported_url", "want data:image"),
        (
            "data:image/png;base64,A\u00e9==",
            400,
            "invalid_image",
            "it is a data: URL whose content",
        ),
        ("data:image/png;base64,AAA", 400, "invalid_image", "no base64"),
        ("data:image/png;base64," + "!" * 1340, 400, "image_too_large", "has 1005 bytes, this"),
        ("file://{root}/large.png", 400, "image_too_large", "has 1001 bytes, this server reads"),
        ("file://{root}/nothing.png", 404, "file_not_found", "nothing.png"),
        ("file://{root}/link.png", 403, "path_not_allowed", "--allowed-roots"),
        ("file://{root}/../../../../etc/hostname", 403, "path_not_allowed", "--allowed-roots"),
        # Not the file `a b.png`, whose name these begin with.
        ("file://{root}/a b.png#1", 400, "unsupported_url", "are written %3F and %23"),
        ("file://{root}/a b.png?x=1", 400, "unsupported_url", "are written %3F and %23"),
        ("file://{root}/a b.png%231", 404, "file_not_found", "there is no file"),
        ("file://{root}/" + "n" * 300, 404, "file_not_found", "too long"),
        ("file://{root}/a%00.png", 404, "file_not_found", "file"),
        ("file://{root}/circle", 404, "file_not_found", "circle"),
        ("file://{root}/pipe", 404, "file_not_found", "pipe that can be read"),
        ("file://{root}", 404, "file_not_found", "there is no file"),
        ("file://[x/a.png", 400, "unsupported_url", "file://[x"),
        ("file://elsewhere/a.png", 400, "unsupported_url", "file://elsewhere"),
    ],
)
def test_what_is_refused(
    source: ImageSource, tmp_path: Path, url: str, status: int, code: str, message: str
) -> None:
    with pytest.raises(ApiError) as refused:
        source.content(url.format(root=tmp_path / "root"), "it")
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert message in refused.value.detail
    assert len(refused.value.detail) < 500


def request_of(*parts: dict[str, Any], **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": list(parts)}]
    return ChatRequest.model_validate({"model": "tiny", "messages": messages} | fields)


def image(url: str = "data:image/png;base64,AAAA", **fields: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | fields}


def test_too_many_images_are_refused_before_any_is_read() -> None:
    nobody: Any = None
    understand = Understanding(
        nobody, nobody, "/", nobody, nobody, nobody, max_images=3, max_bytes=1
    )
    for as_video in (False, True):
        request = request_of(*[image()] * 4, images_as_video=as_video)
        with pytest.raises(ApiError, match="hold 4 images, this server reads 3") as refused:
            asyncio.run(understand(request))
        assert (refused.value.status_code, refused.value.code) == (400, "too_many_images")


def test_frames_have_a_limit_together(source: ImageSource, tmp_path: Path) -> None:
    """Each may be as large as an image, but all of them are held at the same time."""
    nobody: Any = None
    understand = Understanding(
        nobody, source, str(tmp_path), nobody, nobody, nobody, max_images=9, max_bytes=20
    )
    url = (tmp_path / "root" / "a b.png").as_uri()
    parts = [{"type": "image_url", "image_url": {"url": url}}] * 4
    with pytest.raises(ApiError, match=r"3 of 4 frames have 21 bytes together.* reads 20") as told:
        asyncio.run(understand(request_of(*parts, images_as_video=True)))
    assert (told.value.status_code, told.value.code) == (400, "frames_too_large")


def test_detail_is_that_of_the_encoding() -> None:
    for detail in ("auto", "high"):
        request_of(image(detail=detail))
    with pytest.raises(ValidationError, match="detail"):
        request_of(image(detail="low"))
