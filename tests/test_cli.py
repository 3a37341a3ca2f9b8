"""Commands that need no cluster."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longva_ray import cli
from longva_ray.lm.checkpoint import load_longva
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.tiny.text_stages import write_base
from longva_ray.tiny.tower import NamingTower, save_tower, tower_config


def test_join_makes_a_model_to_align(tmp_path: Path) -> None:
    write_base(tmp_path / "text")
    language_model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "text"))
    language_model.save_pretrained(tmp_path / "text")
    save_tower(NamingTower(tower_config()), tower_config(), tmp_path / "tower")
    sources = [str(tmp_path / "text"), str(tmp_path / "tower")]
    new = tmp_path / "new"
    assert cli.join([*sources, str(new), "--encoding", "anyres", "--dtype", "float32"]) == 0
    model, processor = load_longva(new, dtype=torch.float32)
    assert processor.encoding == "anyres"
    weights = language_model.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in model.language_model.named_parameters()
    )
    with pytest.raises(ValueError, match="exists already"):
        cli.join([*sources, str(new)])


def test_verify_names_what_the_disk_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no encoded videos"):
        cli.verify([str(tmp_path)])
    store = ShardStore(tmp_path)
    spec = EncodingSpec(
        encoder_fingerprint="a" * 32,
        sampling="1fps",
        fitting="letterbox",
        decoder="pyav",
        frame_size=56,
        dtype="float32",
        tokens_per_frame=4,
        width=6,
        micro_batch=4,
        part_frames=5,
    )
    tokens_FQD = torch.randn(5, 4, 6)
    for video_id in ("a" * 32, "b" * 32):
        store.write_part(video_id, spec, 0, np.arange(5), np.arange(5.0), tokens_FQD)
        store.commit(video_id, spec, source="a.mp4", num_frames=5, duration_s=5.0)
    assert cli.verify([str(tmp_path)]) == 0
    part = next((tmp_path / ("b" * 32)).rglob("*.arrow"))
    content = part.read_bytes()
    place = content.index(tokens_FQD.numpy().tobytes())
    part.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert cli.verify([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "2 of 2 videos are as written" in printed
    assert f"of video {'b' * 32} does not match its digest" in printed
    assert "1 of 2 videos are as written" in printed
