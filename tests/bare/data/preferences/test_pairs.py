"""Records of a preference file: which are pairs, and why others are not."""

from typing import Any

import pytest

from longva_ray.data.images.chat import RawSample, SampleError
from longva_ray.data.preferences.pairs import parse_pair

GOOD = {"id": "v-1", "video": "v_1", "prompt": "What?", "chosen": "Snow.", "rejected": "Rain."}


def raw(content: Any) -> RawSample:
    return RawSample(sample_id="v-1", folder="/data", content=content)


def test_a_record_of_llava_hound_is_two_conversations() -> None:
    found = parse_pair(raw({**GOOD, "answer": "Snow falls.", "id": "v-1"}))
    assert (found.item.kind, found.item.place) == ("video", "/data/v_1")
    question = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}
    assert found.chosen == (question, {"role": "assistant", "content": "Snow."})
    assert found.rejected == (question, {"role": "assistant", "content": "Rain."})


@pytest.mark.parametrize("prompt", ["<video>\nWhat?", "<image>\nWhat?", "What?\n<video>"])
def test_a_placeholder_in_the_prompt_stands_for_the_video(prompt: str) -> None:
    """LLaVA-Hound writes `<image>` for a video, as the released code does; the chat template puts
    the only item of a turn first."""
    found = parse_pair(raw({**GOOD, "prompt": prompt}))
    parts = found.chosen[0]["content"]
    assert sorted(part["type"] for part in parts) == ["text", "video"]
    assert [part["text"] for part in parts if part["type"] == "text"] == ["What?"]


def test_an_image_is_one_too() -> None:
    found = parse_pair(raw({**GOOD, "video": None, "image": "/a/b.png"}))
    assert (found.item.kind, found.item.place) == ("image", "/a/b.png")
    assert found.chosen[0]["content"][0] == {"type": "image"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "want an object, got list"),
        ({**GOOD, "chosen": " "}, "'chosen' is ' ', want a text"),
        ({**GOOD, "rejected": None}, "'rejected' is None, want a text"),
        ({**GOOD, "prompt": ["What?"]}, "'prompt' is .* want a text"),
        ({**GOOD, "rejected": "Snow. "}, "both answers are the same"),
        ({**GOOD, "video": None}, "want one video or one image, got neither"),
        ({**GOOD, "image": "a.png"}, "want one video or one image, got video and image"),
        ({**GOOD, "video": ["a", "b"]}, "have no placeholder"),
        ({**GOOD, "video": 7}, "want a path"),
        ({**GOOD, "prompt": "<video><video>"}, "more placeholders than there are items"),
        ({**GOOD, "chosen": "\ud83d"}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_pair_says_why(content: Any, reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        parse_pair(raw(content))
