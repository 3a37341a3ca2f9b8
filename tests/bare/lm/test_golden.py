"""What longva-tiny computes for one prompt about three frames, as literals.

Shape suffixes: F frames, Y/X/C pixel axes, Q visual tokens of a frame, D width, T tokens of the
prompt, W words of the vocabulary.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from longva_ray.lm.load import load_longva

PROMPT = [
    *(662, 538, 10, 541, 318, 298, 319, 316, 46, 663, 10, 662, 539, 10),  # system, user
    *(665,) * 12,  # <video>: 3 frames of 4 tokens
    *(10, 525, 300, 307, 63, 663, 10, 662, 540, 10),  # what is there?
]


LIKELIEST = [
    *(46, 538, 46, 46, 318, 305, 663, 46, 663, 663, 661, 663, 97, 661, 46, 46, 46, 46, 258),
    *(46, 46, 46, 46, 46, 46, 46, 307, 262, 663, 46, 258, 307, 307, 283, 283, 661),
]
"""After each token of the prompt."""


def noise(num_frames: int, side: int) -> NDArray[np.uint8]:
    """Frames F Y X C of a multiplicative hash, the same with every version of every library."""
    count = np.arange(num_frames * side * side * 3, dtype=np.uint64)
    hashed = (count * np.uint64(2654435761)) >> np.uint64(13)
    return hashed.astype(np.uint8).reshape(num_frames, side, side, 3)


def test_logits_of_the_shipped_model(tiny_checkpoint: str) -> None:
    model, processor = load_longva(tiny_checkpoint, dtype=torch.float32)
    content = [{"type": "video"}, {"type": "text", "text": "what is there?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    frames_FYXC = noise(3, 56)
    inputs = processor(text=text, videos=[frames_FYXC])
    assert inputs["input_ids"][0].tolist() == PROMPT

    tokens_FQD = model.frame_encoder.encode(frames_FYXC, micro_batch=2)
    assert tokens_FQD.norm().item() == pytest.approx(3.989393, abs=1e-4)
    assert tokens_FQD[:, 1, 5].tolist() == pytest.approx([0.027106, -0.021151, -0.030503], abs=1e-5)

    with torch.inference_mode():
        logits_TW = model(**inputs).logits[0]
    assert logits_TW.argmax(-1).tolist() == LIKELIEST
    assert logits_TW.norm().item() == pytest.approx(730.7776, abs=1e-2)
    assert logits_TW[-1, :4].tolist() == pytest.approx(
        [-6.37164, -6.47313, -6.52664, -6.50155], abs=1e-3
    )
    assert logits_TW[-1].topk(4).indices.tolist() == [661, 536, 436, 646]
    assert logits_TW[-1].topk(4).values.tolist() == pytest.approx(
        [15.54384, 5.76124, 5.62459, 5.41729], abs=1e-3
    )
