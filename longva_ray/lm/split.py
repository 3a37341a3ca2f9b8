"""A LongVA checkpoint taken apart: its language model and its tower in folders of their own.

    LongVA -> OUT/language_model, OUT/tower

Both are in transformers' own form, for programs that know no LongVA. Nothing here needs them: every
command takes the half it wants from the checkpoint itself (`halves`).
"""

from __future__ import annotations

from pathlib import Path

from longva_ray.lm.base_models import stored_dtype
from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.load import load_frame_encoder
from longva_ray.lm.weights import save_folder


def split_longva(path: str | Path, out: Path) -> None:
    """Write both halves, in the number format of the checkpoint. The projector is left out.

    Raises:
        ValueError: `out` exists, or `path` holds no LongVA checkpoint.
    """
    with save_folder(out) as folder:
        dtype = stored_dtype(path)
        load_frame_encoder(path, dtype=dtype).tower.clip.save_pretrained(folder / "tower")
        language = load_language_model(path, dtype=dtype)
        language.model.save_pretrained(folder / "language_model")
        language.tokenizer.save_pretrained(folder / "language_model")
