"""What a newcomer types, each command in a process of its own.

The commands join the session's cluster, as they join one that `ray start` has started. One starts
its own, as on a machine without a cluster.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray
from counting_video import write_counting_video
from PIL import Image
from ports import free_port
from ray import serve
from repository import PATIENCE_S

LONGVA = str(Path(sys.executable).parent / "longva")


@pytest.fixture
def joined(ray_cluster: str) -> Iterator[dict[str, str]]:
    """Environment of a process that joins the session's cluster. What Ray Serve runs there
    afterwards is taken down, so that the next server may listen at another port."""
    yield os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    serve.shutdown()


def longva(
    *arguments: str, folder: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGVA, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=folder,
        env=env,
    )


def test_demo_finds_what_it_hid(joined: dict[str, str], tmp_path: Path) -> None:
    done = longva("demo", "--seed", "7", folder=tmp_path, env=joined)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    assert " 0 frames" not in done.stderr
    folder = tmp_path / "outputs" / "demo"
    answers = json.loads((folder / "answers.json").read_text())
    assert len(answers) == 5
    assert all(each["answer"] == each["true"] for each in answers), done.stdout
    assert list((folder / "shards").rglob("video.json"))
    for picture in (folder / "frames.png", folder / "vniah" / "vniah.png"):
        with Image.open(picture) as sheet:
            assert len(set(sheet.convert("RGB").getdata())) > 100


def test_ask_about_a_real_clip_and_show_it(
    joined: dict[str, str], tmp_path: Path, real_clip: Path
) -> None:
    question = ["What do you see?", "--max-new-tokens", "5"]
    done = longva("ask", str(real_clip), *question, folder=tmp_path, env=joined)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list((tmp_path / "outputs" / "shards").rglob("video.json"))

    pages = ["--ask", "What is <this>?", "And that?", "--frames", "4", "--max-new-tokens", "5"]
    done = longva("show", str(real_clip), *pages, folder=tmp_path, env=joined)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "outputs" / "show.html").read_text()
    assert "4 of 6 frames were read; 4 are shown" in page
    assert "frames that the answer paid most attention to" in page
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 4 + 2 * 4
    assert page.count("What is &lt;this&gt;?") == page.count("And that?") == 1


def test_ask_about_half_a_video_in_a_cluster_of_its_own(tmp_path: Path) -> None:
    """Its beginning looks whole, so that the graph finds out."""
    path = tmp_path / "half.mkv"
    write_counting_video(path, num_frames=50, fps=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = longva("ask", "half.mkv", "What do you see?", folder=tmp_path)
    assert done.returncode == 1
    assert "half.mkv: is truncated" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_until_stopped(joined: dict[str, str], tmp_path: Path) -> None:
    port = str(free_port())
    server = subprocess.Popen([LONGVA, "serve", "--serve.port", port], cwd=tmp_path, env=joined)
    try:
        while server.poll() is None:
            time.sleep(0.5)
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v1/videos").status_code == 200:
                    break
            except httpx.TransportError:
                continue
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE_S) == 0
    finally:
        server.kill()
