"""What a newcomer types, in processes and clusters of their own."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image

LONGVA = str(Path(sys.executable).parent / "longva")


def longva(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGVA, *arguments], capture_output=True, text=True, timeout=300, check=False, cwd=folder
    )


def test_demo_finds_what_it_hid(tmp_path: Path) -> None:
    done = longva("demo", "--seed", "7", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "outputs" / "demo"
    answers = json.loads((folder / "answers.json").read_text())
    assert len(answers) == 5
    assert all(each["answer"] == each["true"] for each in answers), done.stdout
    assert list((folder / "shards").rglob("video.json"))
    for picture in (folder / "frames.png", folder / "vniah" / "vniah.png"):
        with Image.open(picture) as sheet:
            assert len(set(sheet.convert("RGB").getdata())) > 100


def test_ask_about_a_real_clip(tmp_path: Path, real_clip: Path) -> None:
    question = ["What do you see?", "--max-new-tokens", "5"]
    done = longva("ask", str(real_clip), *question, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list((tmp_path / "outputs" / "shards").rglob("video.json"))


def test_ask_about_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("these are notes")
    done = longva("ask", "notes.mp4", "What do you see?", folder=tmp_path)
    assert done.returncode == 1
    assert "notes.mp4" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_until_stopped(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen([LONGVA, "serve", "--serve.port", port], cwd=tmp_path)
    try:
        while server.poll() is None:
            time.sleep(0.5)
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v1/videos").status_code == 200:
                    break
            except httpx.TransportError:
                continue
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=120) == 0
    finally:
        server.kill()
