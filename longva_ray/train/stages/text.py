"""Text extension as a stage: packed rows of tokens -> this rank's zigzag share -> next-token loss.

    rows (T,) -> documents -> ZigzagLayout -> (1, L) ids and labels -> hidden (1, L, D) -> loss

The base is any causal language model of transformers whose attention the ring can compute. It gets
the new base of the rotary embedding before its weights are loaded, so weights and positions never
disagree. Scores over the vocabulary are never written out whole: the output layer is a module that
turns hidden states straight into the loss (`lm.loss`), which is also how ZeRO-3 knows when its
weight has to be there.

What it does not do: pack documents (`train.token_shards` holds rows that are packed), or split a
row over two steps.
Shapes: T tokens of all rows of a batch, L tokens on this rank, D width, V words.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from longva_ray.data.text.shards import TokenSequence, TokenShards
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.loss import OutputLoss
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh
from longva_ray.settings.training import ExtendConfig
from longva_ray.train.activations import checkpoint_activations
from longva_ray.train.order import rows_of_step
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import DTYPES, MicroBatch

logger = logging.getLogger(__name__)


class CausalLoss(torch.nn.Module):
    """A causal language model and its loss, as DeepSpeed wraps it."""

    def __init__(self, model: PreTrainedModel, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        self.model = model
        self.output = OutputLoss(model.get_output_embeddings(), group)

    def forward(
        self, input_ids_BL: torch.Tensor, labels_BL: torch.Tensor, ring: Ring, denominator: int
    ) -> torch.Tensor:
        inputs = ring_inputs(self.model, ring, input_ids_BL.device)
        hidden_BLD = self.model.base_model(input_ids=input_ids_BL, **inputs).last_hidden_state
        return self.output(hidden_BLD, labels_BL, denominator)


class TextStage:
    """Full fine-tuning of a causal language model on token shards (`stage.Stage`).

    Raises ValueError for shards that do not fit the model or the settings.
    """

    def __init__(self, config: ExtendConfig, *, base: str, shards: str) -> None:
        self._config = config
        self._base = base
        self._shards = TokenShards(shards)
        self._model: PreTrainedModel | None = None
        self._mesh: RingMesh | None = None
        self._device = torch.device("cpu")

    def check_inputs(self) -> None:
        """Whether base and shards fit each other, at the price of two small files.

        Raises ValueError, from which a user learns what to change.
        """
        data = self._shards.metadata
        if data.sequence_length > self._config.max_tokens:
            raise ValueError(
                f"rows of {self._shards.place} hold {data.sequence_length} tokens but max_tokens "
                f"is {self._config.max_tokens}; raise it, or prepare shorter rows"
            )
        self._shards.check_tokenizer(load_tokenizer(self._base))
        vocabulary = AutoConfig.from_pretrained(self._base).vocab_size
        if data.largest_id >= vocabulary:
            raise ValueError(
                f"{self._shards.place} holds token {data.largest_id} but {self._base} has "
                f"{vocabulary} words; prepare the shards with this model's tokenizer"
            )

    def build(self, mesh: RingMesh, device: torch.device) -> torch.nn.Module:
        register()
        self._mesh, self._device = mesh, device
        settings = self._config
        config = AutoConfig.from_pretrained(self._base)
        config.rope_parameters["rope_theta"] = settings.rope_theta
        config.max_position_embeddings = settings.max_tokens
        arguments = {
            "config": config,
            "dtype": DTYPES[settings.dtype],
            "attn_implementation": NAME,
        }
        if settings.from_scratch:
            torch.manual_seed(settings.seed)
            model = AutoModelForCausalLM.from_config(**arguments)
        else:
            model = AutoModelForCausalLM.from_pretrained(self._base, **arguments)
        model.train()
        if settings.checkpoint_activations:
            checkpoint_activations(model, offload=settings.offload_activations)
        if settings.tile_mlps:
            tile_mlps(model)
        self._model = model
        self.check()
        return CausalLoss(model, mesh.world_group)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model().parameters()), "lr_factor": 1.0}]

    def model(self) -> PreTrainedModel:
        assert self._model is not None, "build comes first"
        return self._model

    def check(self) -> None:
        assert_rope(self.model(), self.model().config)

    def identity(self) -> dict[str, Any]:
        return {
            "data": self._shards.metadata.content_key,
            "seed": self._config.seed,
            "sequences_per_step": self._config.sequences_per_step,
            "mask_documents": self._config.mask_documents,
            "rope_theta": self._config.rope_theta,
            "base": self._base,
            "from_scratch": self._config.from_scratch,
        }

    def micro_batches(self, step: int) -> list[MicroBatch]:
        mesh = self._mesh
        assert mesh is not None, "build comes first"
        rows = rows_of_step(
            step,
            num_rows=len(self._shards),
            rows_per_step=self._config.sequences_per_step,
            seed=self._config.seed,
            data_rank=mesh.data_rank,
            data_size=mesh.data_size,
        )
        size = self._config.rows_per_batch
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [self._micro_batch([self._shards[row] for row in part], mesh) for part in parts]

    def _micro_batch(self, rows: Sequence[TokenSequence], mesh: RingMesh) -> MicroBatch:
        """This rank's share of some rows, one behind the other."""
        documents = [self._documents(row) for row in rows]
        layout = ZigzagLayout(
            document_lengths=tuple(itertools.chain.from_iterable(documents)),
            world_size=mesh.ring_size,
        )
        ids_BT = torch.from_numpy(np.concatenate([row.input_ids_T for row in rows]))[None].long()
        is_label_BT = torch.from_numpy(np.concatenate([row.is_label_T for row in rows]))[None]
        labels_BT = next_token_labels(ids_BT.where(is_label_BT, IGNORE_INDEX), layout)
        labels_BL = layout.split(labels_BT, mesh.ring_rank, dim=1, pad_value=IGNORE_INDEX)
        ids_BL = layout.split(ids_BT, mesh.ring_rank, dim=1, pad_value=0)
        num_tokens = sum(len(row.input_ids_T) - row.num_padding for row in rows)
        flops = training_flops(self.model().config, layout.document_lengths)
        return MicroBatch(
            inputs={
                "input_ids_BL": ids_BL.to(self._device),
                "labels_BL": labels_BL.to(self._device),
                "ring": Ring(layout=layout, group=mesh.ring_group),
            },
            num_labels=int((labels_BL != IGNORE_INDEX).sum()),
            num_tokens=num_tokens if mesh.ring_rank == 0 else 0,
            flops=flops / mesh.ring_size,
        )

    def _documents(self, row: TokenSequence) -> tuple[int, ...]:
        """Spans that see only themselves; without masking everything but padding is one."""
        if self._config.mask_documents:
            return row.document_lengths
        spans = (len(row.input_ids_T) - row.num_padding, row.num_padding)
        return tuple(length for length in spans if length > 0)

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        self.model().save_pretrained(folder, state_dict=weights)
        AutoTokenizer.from_pretrained(self._base).save_pretrained(folder)

    def provenance(self) -> dict[str, Any]:
        """Where the data came from, for the record beside the weights."""
        data = self._shards.metadata
        return {
            "base": self._base,
            "shards": self._shards.place,
            "content_key": data.content_key,
            "source": data.source,
            "settings": data.settings,
            "versions": data.versions,
        }
