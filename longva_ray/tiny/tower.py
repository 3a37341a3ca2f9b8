"""Pretraining of the tiny vision tower, in the place that CLIP has in the paper.

    CLIPVisionConfig -> a folder that `longva_ray.lm.join.assemble_longva` reads as a tower

The tower sees single frames and learns to tell them: the four places that later become visual
tokens say "star", "red", "star", "red", by a linear head that is thrown away. CLIP's tower comes
near to language in its own way. If every place of a tower knew everything, the projector would have
to take the words apart, and what each kept of the others would mislead a language model among
hundreds of frames. No place says what is the same for every frame: no loss on short images decides
what the projector makes of that, and hundreds of such tokens draw the attention of a language model
away. Only what is used is pretrained, the layers up to `hidden_states[-2]`; the layer after them is
neither built nor saved.

Frames are drawn once and changed at each use: shifted, scaled, turned, brightened, made noisy. Tens
of thousands of them matter more than long training: retrieval among F frames meets every frame that
is mistaken for another F times. One process, float32, CPU; no language model is involved.

Shape suffixes: G frames, Y/X/C pixel axes, P patches, Q places after pooling, V tower width, K
words.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from longva_ray.lm.weights import save_folder
from longva_ray.progress import Progress
from longva_ray.tiny.drawing import draw_small
from longva_ray.tiny.world import COLOURS, THINGS, TOKENS_A_SCENE, Scene
from longva_ray.vision.clip_tower import ClipTower
from longva_ray.vision.tower_config import grid_and_patch_side

FEATURE_LAYER = -2  # of hidden_states, as in the paper's model


PLACES_SIDE = math.isqrt(TOKENS_A_SCENE)  # visual tokens along a side of a frame, after pooling


FIRST_COLOUR = len(THINGS)


NUM_WORDS = FIRST_COLOUR + len(COLOURS)
"""What a place may say: things, then colours."""


def tower_config() -> CLIPVisionConfig:
    """The tiny tower: 4 x 4 patches of a frame of 56 pixels, 0.3M parameters."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=56,
        patch_size=14,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerTraining:
    """How the tower is pretrained."""

    pictures: int = 70_000
    """Frames drawn for training: 34 things in 8 colours, about 260 of each."""
    steps: int = 6000
    batch: int = 128
    learning_rate: float = 1e-3
    """Highest; a cosine leads to zero."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    """Draws the frames of one word close together, where a cross-entropy that is nearly zero leaves
    them wide apart (https://arxiv.org/abs/1906.02629); hundreds of frames need that."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pictures", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Frames and what they show."""

    frames_GYXC: NDArray[np.uint8]
    colour_G: Tensor
    thing_G: Tensor

    def __len__(self) -> int:
        return len(self.frames_GYXC)

    @property
    def words_GQ(self) -> Tensor:
        """What the places of each frame say: thing, colour, thing, colour."""
        return torch.stack([self.thing_G, FIRST_COLOUR + self.colour_G] * 2, dim=1)


class NamingTower(nn.Module):
    """The tower with its head: pixels_GCYX (0 to 255) -> logits G Q K of the word at each place."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.tower = ClipTower(config, feature_layer=FEATURE_LAYER)
        self.word = nn.Linear(config.hidden_size, NUM_WORDS)

    def forward(self, pixels_GCYX: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values)[:, None, None] * 255
            for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        patches_GPV = self.tower((pixels_GCYX - mean) / std)
        grids, patches, width = patches_GPV.shape
        side = math.isqrt(patches)
        patches_GVpp = patches_GPV.transpose(1, 2).reshape(grids, width, side, side)
        places_GQV = F.adaptive_avg_pool2d(patches_GVpp, PLACES_SIDE).flatten(2).mT
        logits_GQK: Tensor = self.word(places_GQV)
        return logits_GQK


def draw_pictures(count: int, *, size: int, seed: int) -> Pictures:
    """Frames of size x size pixels: all things equally often, in colours drawn at random."""
    rng = np.random.default_rng(seed)
    frames_GYXC = np.empty((count, size, size, 3), dtype=np.uint8)
    thing_G = np.arange(count) % len(THINGS)
    colour_G = rng.integers(len(COLOURS), size=count)
    names = list(COLOURS)
    with Progress("drawing frames", unit="frames", total=count) as progress:
        for row in range(count):
            scene = Scene(names[colour_G[row]], THINGS[thing_G[row]])
            frames_GYXC[row] = draw_small(scene, size, rng)
            progress.advance(1)
    return Pictures(
        frames_GYXC=frames_GYXC,
        colour_G=torch.from_numpy(colour_G),
        thing_G=torch.from_numpy(thing_G),
    )


def pretrain_tower(config: CLIPVisionConfig, training: TowerTraining) -> NamingTower:
    """Train a tower from scratch; the same seed gives the same weights on the same machine."""
    size, _ = grid_and_patch_side(config)
    pictures = draw_pictures(training.pictures, size=size, seed=training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = NamingTower(config)
        _train(model, pictures, training)
    return model.eval()


@torch.inference_mode()
def accuracy(model: NamingTower, pictures: Pictures, *, batch: int = 256) -> dict[str, float]:
    """Of the frames, how many have their `colour`, their `thing` and both, the `scene`, named
    rightly by every place that names it."""
    said_GQ = torch.cat(
        [
            model(_pixels(pictures.frames_GYXC[start : start + batch])).argmax(-1)
            for start in range(0, len(pictures), batch)
        ]
    )
    is_right_GQ = said_GQ == pictures.words_GQ
    thing_G, colour_G = is_right_GQ[:, 0::2].all(1), is_right_GQ[:, 1::2].all(1)
    right = {"colour": colour_G, "thing": thing_G, "scene": colour_G & thing_G}
    return {name: is_right_G.float().mean().item() for name, is_right_G in right.items()}


def save_tower(model: NamingTower, config: CLIPVisionConfig, path: str | os.PathLike[str]) -> None:
    """Write the tower as a CLIP checkpoint, without the layers after the one that is used.

    Raises:
        ValueError: `path` exists.
    """
    with save_folder(Path(path)) as folder:
        config.save_pretrained(folder)
        tensors = {
            name: value.contiguous() for name, value in model.tower.clip.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _train(model: NamingTower, pictures: Pictures, training: TowerTraining) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / training.warmup_steps)
            * (0.5 + 0.5 * math.cos(math.pi * step / training.steps))
        ),
    )
    words_GQ = pictures.words_GQ
    with Progress("pretraining the tower", unit="steps", total=training.steps) as progress:
        for step in range(training.steps):
            row_G = torch.randint(len(pictures), (training.batch,))
            pixels_GCYX = change(_pixels(pictures.frames_GYXC[row_G.numpy()]))
            logits_GQK = model(pixels_GCYX)
            loss = F.cross_entropy(
                logits_GQK.flatten(0, 1),
                words_GQ[row_G].flatten(),
                label_smoothing=training.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.reach(step + 1, f"loss {loss.item():.3f}")


def _pixels(frames_GYXC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames_GYXC).permute(0, 3, 1, 2).float()


def change(pixels_GCYX: Tensor) -> Tensor:
    """Frames as other frames of the same scenes might look: 0 to 255, new random changes each call.

    Turned by up to 5 degrees, scaled by up to 10% and moved by up to 7% of the side; brightness,
    tint and noise as lossy coding might leave them.
    """
    count = len(pixels_GCYX)
    angle_G, scale_G = _within(count, math.radians(5)), 1 + _within(count, 0.1)
    cos_G, sin_G, shift_GX, shift_GY = (
        angle_G.cos() * scale_G,
        angle_G.sin() * scale_G,
        _within(count, 0.14),
        _within(count, 0.14),
    )
    affine_G23 = torch.stack([cos_G, -sin_G, shift_GX, sin_G, cos_G, shift_GY], -1).view(-1, 2, 3)
    where_GYX2 = F.affine_grid(affine_G23, list(pixels_GCYX.shape), align_corners=False)
    moved_GCYX = F.grid_sample(pixels_GCYX, where_GYX2, padding_mode="border", align_corners=False)
    bright_GCYX = moved_GCYX * (1 + _within(count, 0.1)[:, None, None, None])
    tint_GC11 = (torch.rand(count, 3, 1, 1) - 0.5) * 16
    noise_GCYX = torch.randn_like(pixels_GCYX) * torch.rand(count, 1, 1, 1) * 8
    return (bright_GCYX + tint_GC11 + noise_GCYX).clamp(0, 255)


def _within(count: int, most: float) -> Tensor:
    return (torch.rand(count) * 2 - 1) * most
