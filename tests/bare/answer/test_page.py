"""Frames, questions and answers as one HTML file."""

import base64
import io
import re

import numpy as np
from PIL import Image

from longva_ray.answer.page import ShownAnswer, ShownFrame, ShownVideo, write_page


def test_a_page_holds_all_and_needs_nothing_beside_it() -> None:
    frames_FYXC = np.zeros((2, 32, 32, 3), np.uint8)
    frames_FYXC[1] = 255
    first, second = (
        ShownFrame(frame_YXC=frame_YXC, seconds=seconds)
        for frame_YXC, seconds in zip(frames_FYXC, (65.9, 3723.0), strict=True)
    )
    video = ShownVideo(
        name="a & b.mp4",
        frames=[first, second],
        num_read=16,
        num_frames=400,
        answers=[
            ShownAnswer(question="What <falls>?", answer="Rain & snow."),
            ShownAnswer(
                question="When?", answer="Later.", attention_R=[0.25, 0.75], looked_at=[second]
            ),
        ],
    )
    page = write_page("Title", "model: tiny", [video, video])
    assert page.count("<section>") == 2
    assert "a &amp; b.mp4" in page
    assert '<dt>What &lt;falls&gt;?</dt><dd><p class="answer">Rain &amp; snow.</p></dd>' in page
    assert "16 of 400 frames were read; 2 are shown" in page
    assert re.findall(r"<figcaption>([^<]*)", page)[:3] == ["1:05", "1:02:03", "1:02:03"]
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    pictures = [Image.open(io.BytesIO(base64.b64decode(s.split(",")[1]))) for s in sources[:3]]
    assert [np.asarray(picture).mean() for picture in pictures] == [0, 255, 255]
    # One curve a video: of the answer whose attention is known.
    assert re.findall(r'<rect x="(\d)" y="([\d.]*)"', page)[:2] == [("0", "0.667"), ("1", "0.000")]
    assert page.count("<svg") == 2
