"""What all stages that train a language model share: its attention, its memory, its rows.

    row (T,) of documents -> ZigzagLayout -> this rank's (1, L) ids and labels -> hidden (1, L, D)

A stage derives from `LanguageStage` and adds four things: how its model is loaded and what of it
learns (`load`), its module with the loss (`loss_module`), its micro-batches, and what else is part
of its identity. Attention is the ring's, whatever the model. Activations are checkpointed, MLPs are
tiled and rows are divided as the settings say, the same in every stage.

What it does not do: read rows, or choose a loss. `LanguageLoss` is the next-token loss that most
stages want; one that compares whole documents takes `ring_hidden` and writes its own.
Shapes: T tokens of a row, L tokens on this rank, D width.
"""

import abc
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from longva_ray.lm.fused import fuse
from longva_ray.lm.loss import OutputLoss
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import register, ring_inputs
from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels
from longva_ray.ring.mesh import RingMesh
from longva_ray.settings.training import TrainConfig
from longva_ray.train.activations import checkpoint_activations
from longva_ray.train.order import rows_of_step
from longva_ray.train.stage import MicroBatch

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=TrainConfig)
ModelT = TypeVar("ModelT", bound=PreTrainedModel)
ShardsT = TypeVar("ShardsT", bound="Shards")


class Manifest(Protocol):
    """What shards say about themselves."""

    @property
    def content_key(self) -> str: ...
    @property
    def source(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def versions(self) -> Mapping[str, str]: ...


class Shards(Protocol):
    """Packed rows on a disk or in a store."""

    @property
    def place(self) -> str: ...
    @property
    def metadata(self) -> Manifest: ...
    def __len__(self) -> int: ...
    def held_out(self) -> Self: ...


def ring_hidden(
    language_model: PreTrainedModel, ring: Ring, **inputs: torch.Tensor
) -> torch.Tensor:
    """This rank's last hidden states (1, L, D) of `input_ids` or `inputs_embeds`."""
    (given,) = inputs.values()
    arguments = ring_inputs(language_model, ring, given.device)
    hidden_BLD: torch.Tensor = language_model.base_model(**inputs, **arguments).last_hidden_state
    return hidden_BLD


class LanguageLoss(torch.nn.Module):
    """A model, and the next-token loss of its language model, as an engine wraps it.

    Scores over the vocabulary are never written out whole: the output layer is a module that turns
    hidden states straight into the loss (`lm.loss`). That is also how ZeRO-3 knows when its weight
    has to be there.
    """

    def __init__(self, model: PreTrainedModel, group: dist.ProcessGroup | None) -> None:
        super().__init__()
        self.model = model
        self.output = OutputLoss(model.get_output_embeddings(), group)


class LanguageStage(abc.ABC, Generic[ConfigT, ModelT, ShardsT]):
    """A stage (`stage.Stage`) but for its model, its loss and what is in its rows."""

    def __init__(self, config: ConfigT, *, base: str, shards: ShardsT) -> None:
        self.config = config
        self.base = base
        self.shards = shards
        self._held_out = None if config.validate_every is None else shards.held_out()
        self.device = torch.device("cpu")
        self._model: ModelT | None = None
        self._mesh: RingMesh | None = None

    @abc.abstractmethod
    def check_inputs(self) -> None:
        """Whether base and shards fit each other, at the price of a few small files.

        Raises ValueError, from which a user learns what to change.
        """

    @abc.abstractmethod
    def load(self) -> ModelT:
        """The model on the CPU, its language model set to the ring's attention. What is not to be
        trained requires no gradient."""

    @abc.abstractmethod
    def loss_module(self, model: ModelT, group: dist.ProcessGroup | None) -> torch.nn.Module:
        """What `stage.Stage.build` returns; losses are means over `group`."""

    @abc.abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]: ...

    @abc.abstractmethod
    def micro_batches(self, step: int) -> list[MicroBatch]: ...

    @abc.abstractmethod
    def validate(self, run: Callable[..., Any]) -> dict[str, float]: ...

    def measured(self) -> dict[str, float]:
        return {}

    def language_model(self) -> PreTrainedModel:
        """The part of the model that attends over the ring."""
        return self.model()

    def build(self, mesh: RingMesh, device: torch.device) -> torch.nn.Module:
        register()
        self._mesh, self.device = mesh, device
        self._model = model = self.load()
        model.train()
        if self.config.checkpoint_activations:
            offload = self.config.offload_activations
            checkpoint_activations(self.language_model(), offload=offload)
        self.slim(self.language_model())
        self.check()
        return self.loss_module(model, mesh.world_group)

    def slim(self, language_model: PreTrainedModel) -> None:
        """Have it compute in less memory, in place, as settings and device allow."""
        if self.config.tile_mlps:
            tile_mlps(language_model)
        if self.device.type == "cuda":
            fuse(language_model)

    def model(self) -> ModelT:
        assert self._model is not None, "build comes first"
        return self._model

    def mesh(self) -> RingMesh:
        assert self._mesh is not None, "build comes first"
        return self._mesh

    def held_out(self) -> ShardsT:
        """The rows that are validated on."""
        assert self._held_out is not None, "validate_every is not set"
        return self._held_out

    def check(self) -> None:
        assert_rope(self.language_model(), self.language_model().config)

    def identity(self) -> dict[str, Any]:
        return {
            "data": self.shards.metadata.content_key,
            "seed": self.config.seed,
            "sequences_per_step": self.config.sequences_per_step,
            "base": self.base,
        }

    def rows(self, step: int, data_rank: int) -> list[int]:
        """Which rows ring `data_rank` trains on in a step."""
        return rows_of_step(
            step,
            num_rows=len(self.shards),
            rows_per_step=self.config.sequences_per_step,
            seed=self.config.seed,
            data_rank=data_rank,
            data_size=self.mesh().data_size,
        )

    def micro_batch(
        self,
        ids_BT: torch.Tensor,
        is_label_BT: torch.Tensor,
        layout: ZigzagLayout,
        *,
        num_tokens: int,
        flops: float,
        **inputs: Any,
    ) -> MicroBatch:
        """This rank's share of a row.

        Args:
            is_label_BT: tokens that the model learns to produce.
            num_tokens: of the row, padding left out.
            flops: model FLOPs of the row.
            inputs: what else the loss module takes.
        """
        mesh = self.mesh()
        labels_BT = next_token_labels(ids_BT.where(is_label_BT, IGNORE_INDEX), layout)
        labels_BL = layout.split(labels_BT, mesh.ring_rank, dim=1, pad_value=IGNORE_INDEX)
        ids_BL = layout.split(ids_BT, mesh.ring_rank, dim=1, pad_value=0)
        return MicroBatch(
            inputs={
                "input_ids_BL": ids_BL.to(self.device),
                "labels_BL": labels_BL.to(self.device),
                "ring": Ring(
                    layout=layout,
                    group=mesh.ring_group,
                    schedule=self.config.ring_schedule,
                    kernel=self.config.ring_kernel,
                ),
                **inputs,
            },
            num_labels=int((labels_BL != IGNORE_INDEX).sum()),
            num_tokens=num_tokens if mesh.ring_rank == 0 else 0,
            flops=flops / mesh.ring_size,
        )

    def log_passes(self) -> None:
        """Say how often the run goes through its rows."""
        rows, step = len(self.shards), self.config.sequences_per_step
        logger.info(
            "%d rows, so one pass is %d steps and the run takes %.2f passes",
            rows,
            -(-rows // step),
            self.config.steps * step / rows,
        )

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        self.model().save_pretrained(folder, state_dict=weights)

    def provenance(self) -> dict[str, Any]:
        """Where the data came from, for the record next to the weights."""
        data = self.shards.metadata
        return {
            "base": self.base,
            "shards": self.shards.place,
            "content_key": data.content_key,
            "source": data.source,
            "settings": data.settings,
            "versions": data.versions,
        }
