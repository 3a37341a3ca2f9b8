"""Frames, questions and answers as one HTML file."""

import base64
import io
import re

import numpy as np
from PIL import Image

from longva_ray.answer.page import ShownVideo, write_page


def test_a_page_holds_all_and_needs_nothing_beside_it() -> None:
    frames_FYXC = np.zeros((2, 32, 32, 3), np.uint8)
    frames_FYXC[1] = 255
    video = ShownVideo(
        name="a & b.mp4",
        frames_FYXC=frames_FYXC,
        seconds_F=(65.9, 3723.0),
        num_read=16,
        num_frames=400,
        answers=[("What <falls>?", "Rain & snow.")],
    )
    page = write_page("Title", "model: tiny", [video, video])
    assert page.count("<section>") == 2
    assert "a &amp; b.mp4" in page
    assert "<dt>What &lt;falls&gt;?</dt><dd>Rain &amp; snow.</dd>" in page
    assert "16 of 400 frames were read; 2 are shown" in page
    assert re.findall(r"<figcaption>([^<]*)", page)[:2] == ["1:05", "1:02:03"]
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    pictures = [Image.open(io.BytesIO(base64.b64decode(s.split(",")[1]))) for s in sources[:2]]
    assert [np.asarray(picture).mean() for picture in pictures] == [0, 255]
