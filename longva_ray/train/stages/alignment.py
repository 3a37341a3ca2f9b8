"""Vision alignment as a stage: packed rows of conversations -> loss over the answers.

    row (T,) + grids -> this rank's zigzag share (L,) of ids, and the grids it shows
    grids -> frame encoder -> tokens_GKD -> those that are shown, spliced into embeddings -> loss

A ring shares one row. Each rank encodes the grids whose tokens stand in its share and nothing is
exchanged: what a rank does not hold it needs no token of, and the gradient of a token arises where
the token is. Trade-off: what is cut by the border between two chunks is encoded on both sides, at
most four such grids a rank, or images with AnyRes; in return there is no gather of tokens with a
reduction of their gradients behind it. The grids of a share are about as many on every rank, as
images are most of the tokens.

Divided weights (ZeRO) are gathered when a layer runs, by all ranks together. So the encoder runs
equally often on every rank of the world, on a black grid where a rank has none left; how often
follows from the manifest.

What it does not do: cut images (`train.vision_samples` did), read ahead.
Shapes: T tokens of a row, L tokens on this rank, G grids, K tokens made of a grid, S visual tokens
in this share, 2 the grid of one and its number there, D width.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer

from longva_ray.data.images.shards import VisionRow, VisionShards
from longva_ray.lm.load import load_longva, load_longva_config
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.loss import OutputLoss
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.lm.prompt import add_placeholders
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.splice import embed_text, fill, placeholder_mask
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh
from longva_ray.settings.training import AlignConfig
from longva_ray.train.activations import checkpoint_activations
from longva_ray.train.order import rows_of_step
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import DTYPES, MicroBatch
from longva_ray.vision.anyres import NEWLINE
from longva_ray.vision.frame_encoder import grid_and_patch_side

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisualShare:
    """The images in a rank's share of a row."""

    batches: tuple[torch.Tensor, ...]
    """Grids G Y X C (uint8), one entry for each run of the encoder."""
    source_S2: torch.Tensor
    """Of every visual token of the share, in order: its grid among all in the batches, and its
    number there (`vision.encoding`)."""


class AlignmentLoss(torch.nn.Module):
    """LongVA and the loss over its answers, as an engine wraps it."""

    def __init__(
        self,
        model: LongVAForConditionalGeneration,
        group: dist.ProcessGroup | None,
        *,
        recompute: bool,
    ) -> None:
        """`recompute`: keep the tower's pixels instead of its activations."""
        super().__init__()
        self.model = model
        self.output = OutputLoss(model.get_output_embeddings(), group)
        self._recompute = recompute

    def forward(
        self,
        input_ids_BL: torch.Tensor,
        labels_BL: torch.Tensor,
        visual: VisualShare,
        ring: Ring,
        denominator: int,
    ) -> torch.Tensor:
        language_model = self.model.language_model
        tokens_GKD = torch.cat([self._encode(grids_GYXC) for grids_GYXC in visual.batches])
        tokens_SD = self.model.frame_encoder.arrange(tokens_GKD, visual.source_S2)
        mask_BL = placeholder_mask(input_ids_BL, self.model.config.placeholder_ids)
        embeds_BLD = embed_text(input_ids_BL, language_model.get_input_embeddings(), mask_BL)
        # Without a visual token too: what every rank runs forward it must also run backward.
        embeds_BLD = fill(embeds_BLD, mask_BL, [tokens_SD])
        inputs = ring_inputs(language_model, ring, input_ids_BL.device)
        hidden_BLD = language_model.base_model(inputs_embeds=embeds_BLD, **inputs).last_hidden_state
        return self.output(hidden_BLD, labels_BL, denominator)

    def _encode(self, grids_GYXC: torch.Tensor) -> torch.Tensor:
        encode = self.model.frame_encoder.grid_tokens
        if self._recompute:
            return checkpoint(encode, grids_GYXC, use_reentrant=False)
        return encode(grids_GYXC)


class VisionStage:
    """Alignment of a LongVA checkpoint on vision shards (`stage.Stage`).

    Raises ValueError for shards that do not fit the model.
    """

    def __init__(self, config: AlignConfig, *, base: str, shards: str) -> None:
        self._config = config
        self._base = base
        self._shards = VisionShards(shards)
        self._model: LongVAForConditionalGeneration | None = None
        self._processor: LongVAProcessor | None = None
        self._mesh: RingMesh | None = None
        self._device = torch.device("cpu")

    def check_inputs(self) -> None:
        """Whether base and shards fit each other, at the price of a few small files.

        Raises ValueError, from which a user learns what to change.
        """
        config = load_longva_config(self._base)
        tokenizer = AutoTokenizer.from_pretrained(self._base)
        add_placeholders(tokenizer)
        self._shards.check_model(config.grids, tokenizer)
        rows, step = len(self._shards), self._config.sequences_per_step
        logger.info(
            "%d rows, so one pass is %d steps and the run takes %.2f passes",
            rows,
            -(-rows // step),
            self._config.steps * step / rows,
        )

    def build(self, mesh: RingMesh, device: torch.device) -> torch.nn.Module:
        register()
        self._mesh, self._device = mesh, device
        settings = self._config
        model, self._processor = load_longva(
            self._base, dtype=DTYPES[settings.dtype], attn_implementation=NAME
        )
        model.train()
        everything = settings.train == "all"
        model.requires_grad_(everything)
        model.frame_encoder.projector.requires_grad_(True)
        model.frame_encoder.tower.requires_grad_(everything and settings.vision_learning_rate > 0)
        if settings.checkpoint_activations:
            checkpoint_activations(model.language_model, offload=settings.offload_activations)
        if settings.tile_mlps:
            tile_mlps(model.language_model)
        self._model = model
        self.check()
        # A frozen tower keeps no activations, so there is nothing to save by running it twice.
        recompute = settings.checkpoint_activations and self._trains_tower()
        return AlignmentLoss(model, mesh.world_group, recompute=recompute)

    def parameter_groups(self) -> list[dict[str, Any]]:
        settings, encoder = self._config, self.model().frame_encoder
        rates = {
            self.model().language_model: settings.learning_rate,
            encoder.projector: settings.projector_learning_rate or settings.learning_rate,
            encoder.tower: settings.vision_learning_rate,
        }
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "lr_factor": rate / settings.learning_rate,
            }
            for module, rate in rates.items()
        ]
        return [group for group in groups if group["params"]]

    def model(self) -> LongVAForConditionalGeneration:
        assert self._model is not None, "build comes first"
        return self._model

    def check(self) -> None:
        assert_rope(self.model().language_model, self.model().config.text)

    def identity(self) -> dict[str, Any]:
        return {
            "data": self._shards.metadata.content_key,
            "seed": self._config.seed,
            "sequences_per_step": self._config.sequences_per_step,
            "train": self._config.train,
            "base": self._base,
        }

    def micro_batches(self, step: int) -> list[MicroBatch]:
        mesh = self._mesh
        assert mesh is not None, "build comes first"
        rows = [self._rows(step, ring, mesh.data_size) for ring in range(mesh.data_size)]
        runs = [self._encoder_runs(beside, mesh.ring_size) for beside in zip(*rows, strict=True)]
        return [
            self._micro_batch(self._shards[row], mesh, num_runs)
            for row, num_runs in zip(rows[mesh.data_rank], runs, strict=True)
        ]

    def _rows(self, step: int, data_rank: int, data_size: int) -> list[int]:
        return rows_of_step(
            step,
            num_rows=len(self._shards),
            rows_per_step=self._config.sequences_per_step,
            seed=self._config.seed,
            data_rank=data_rank,
            data_size=data_size,
        )

    def _encoder_runs(self, rows: tuple[int, ...], ring_size: int) -> int:
        """How often the encoder runs for rows that are trained on side by side: never less than any
        rank needs, and the same for all."""
        data = self._shards.metadata
        most = 0
        for row in rows:
            chunk = -(-data.row_tokens[row] // (2 * ring_size))
            # A rank holds two such chunks.
            most = max(most, min(data.row_grids[row], 2 * data.grids.most_grids(chunk)))
        return max(1, -(-most // self._config.grids_per_forward))

    def _micro_batch(self, row: VisionRow, mesh: RingMesh, num_runs: int) -> MicroBatch:
        """This rank's share of a row."""
        layout = ZigzagLayout(document_lengths=row.document_lengths, world_size=mesh.ring_size)
        ids_BT = torch.from_numpy(row.input_ids_T.astype(np.int64))[None]
        trained_BT = torch.from_numpy(np.array(row.is_label_T))[None]
        answers_BT = ids_BT.masked_fill(~trained_BT, IGNORE_INDEX)
        labels_BT = next_token_labels(answers_BT, layout)
        labels_BL = layout.split(labels_BT, mesh.ring_rank, dim=1, pad_value=IGNORE_INDEX)
        ids_BL = layout.split(ids_BT, mesh.ring_rank, dim=1, pad_value=0)
        return MicroBatch(
            inputs={
                "input_ids_BL": ids_BL.to(self._device),
                "labels_BL": labels_BL.to(self._device),
                "visual": self._visual_share(row, ids_BT, layout, num_runs),
                "ring": Ring(layout=layout, group=mesh.ring_group),
            },
            num_labels=int((labels_BL != IGNORE_INDEX).sum()),
            num_tokens=ids_BT.shape[1] if mesh.ring_rank == 0 else 0,
            flops=self._flops(row) / mesh.ring_size,
        )

    def _visual_share(
        self, row: VisionRow, ids_BT: torch.Tensor, layout: ZigzagLayout, num_runs: int
    ) -> VisualShare:
        """The grids that this rank's tokens come from, in `num_runs` batches, and which token of
        them stands at each of its placeholders."""
        assert self._mesh is not None
        mask_T = placeholder_mask(ids_BT, self.model().config.placeholder_ids)[0]
        assert int(mask_T.sum()) == len(row.source_S2), "shards hold what they show"
        number_T = torch.where(mask_T, mask_T.cumsum(0) - 1, -1)
        number_L = layout.split(number_T, self._mesh.ring_rank, dim=0, pad_value=-1)
        source_S2 = torch.tensor(row.source_S2)[number_L[number_L >= 0]]
        in_grid_S = source_S2[:, 0] != NEWLINE
        grids, place = torch.unique(source_S2[in_grid_S, 0], return_inverse=True)
        source_S2[in_grid_S, 0] = place.to(source_S2.dtype)
        size = self._shards.metadata.grids.grid_size
        black_GYXC = np.zeros((1, size, size, 3), dtype=np.uint8)
        parts = np.array_split(grids.numpy(), num_runs)
        batches = [row.grids_GYXC[part] if len(part) else black_GYXC for part in parts]
        return VisualShare(
            batches=tuple(torch.from_numpy(batch).to(self._device) for batch in batches),
            source_S2=source_S2.to(self._device),
        )

    def _trains_tower(self) -> bool:
        return any(p.requires_grad for p in self.model().frame_encoder.tower.parameters())

    def _flops(self, row: VisionRow) -> float:
        """Model FLOPs of a row: two for each weight and token forward, two more for each gradient
        that is computed, of activations and of weights."""
        config = self.model().config
        language = training_flops(config.text, row.document_lengths)
        if self._config.train == "projector":
            language *= 2 / 3  # no gradients of weights
        patches = grid_and_patch_side(config.vision)[1] ** 2 + 1
        tower = sum(p.numel() for p in self.model().frame_encoder.tower.parameters())
        passes = 3 if self._trains_tower() else 1
        return language + passes * 2.0 * tower * patches * len(row.grids_GYXC)

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        assert self._processor is not None, "build comes first"
        self.model().save_pretrained(folder, state_dict=weights)
        self._processor.save_pretrained(folder)

    def provenance(self) -> dict[str, Any]:
        """Where the data came from, for the record beside the weights."""
        data = self._shards.metadata
        return {
            "base": self._base,
            "shards": self._shards.place,
            "content_key": data.content_key,
            "source": data.source,
            "samples": data.num_samples,
            "left_out": data.num_left_out,
            "settings": data.settings,
            "versions": data.versions,
        }
