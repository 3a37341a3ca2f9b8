"""The ring-flash-attn schedule where it cannot run, and the way around its broken import."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from longva_ray.ring import zigzag_package
from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.layout import ZigzagLayout

Q = torch.zeros(1, 2, 8, 8)


def attend(*documents: int) -> torch.Tensor:
    layout = ZigzagLayout(document_lengths=documents, world_size=1)
    return ring_attention(Q, Q, Q, Ring(layout=layout, schedule="ring_flash_attn"))


@pytest.mark.parametrize("documents", [(5, 3), (7,)], ids=["packed", "padded"])
def test_only_one_document_without_padding(documents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one document without padding"):
        attend(*documents)


@pytest.mark.skipif(
    importlib.util.find_spec("ring_flash_attn") is not None, reason="ring-flash-attn is installed"
)
def test_missing_package_names_the_extra() -> None:
    with pytest.raises(ValueError, match=r"pip install 'longva-ray\[gpu\]'"):
        attend(8)


def test_import_survives_a_broken_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package built like version 0.1.8: its adapter asks transformers for a name that is gone."""
    package = tmp_path / "ring_flash_attn"
    (package / "adapters").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from .adapters import substitute_hf_flash_attn, update_ring_flash_attn_params\n"
        "def zigzag_ring_flash_attn_func(): return 'zigzag'\n"
    )
    (package / "adapters" / "__init__.py").write_text(
        "from transformers.modeling_flash_attention_utils import a_name_that_is_gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "ring_flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert zigzag_package._import_without_adapters().zigzag_ring_flash_attn_func() == "zigzag"
        assert "ring_flash_attn.adapters" not in sys.modules
    finally:
        sys.modules.pop("ring_flash_attn", None)
