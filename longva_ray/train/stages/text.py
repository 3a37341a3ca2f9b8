"""Text extension as a stage: packed rows of tokens -> next-token loss.

    rows (T,) -> documents -> this rank's (1, L) ids and labels -> hidden (1, L, D) -> loss

The base is any causal language model of transformers whose attention the ring can compute, or that
half of a LongVA checkpoint. It gets the new base of the rotary embedding before its weights are
loaded, so weights and positions never disagree.

What it does not do: pack documents (`data.text.packing` did), or split a row over two steps.
Shapes: T tokens of all rows of a batch, L tokens on this rank, D width.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedModel

from longva_ray.data.text.shards import TokenSequence, TokenShards, unlabelled
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.language_model import language_config, load_language_model
from longva_ray.lm.weights import check_readable, checkpoint_folder
from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.settings.training import ExtendConfig
from longva_ray.train.order import batches_in_order
from longva_ray.train.speed import training_flops
from longva_ray.train.stage import DTYPES, MicroBatch
from longva_ray.train.stages.language import LanguageLoss, LanguageStage, ring_hidden
from longva_ray.train.sums import sum_over_ranks


class TextLoss(LanguageLoss):
    """A causal language model and the loss over all its labels."""

    def forward(
        self, input_ids_BL: torch.Tensor, labels_BL: torch.Tensor, ring: Ring, denominator: int
    ) -> torch.Tensor:
        hidden_BLD = ring_hidden(self.model, ring, input_ids=input_ids_BL)
        return self.output(hidden_BLD, labels_BL, denominator)


class TextStage(LanguageStage[ExtendConfig, PreTrainedModel, TokenShards]):
    """Full fine-tuning of a causal language model on token shards.

    Raises ValueError for shards that do not fit the model or the settings.
    """

    def __init__(self, config: ExtendConfig, *, base: str, shards: str) -> None:
        super().__init__(config, base=base, shards=TokenShards(shards))

    def check_inputs(self) -> None:
        data = self.shards.metadata
        if data.sequence_length > self.config.max_tokens:
            raise ValueError(
                f"rows of {self.shards.place} hold {data.sequence_length} tokens, but "
                f"--extend.max-tokens is {self.config.max_tokens}; raise it, or prepare shorter "
                "rows"
            )
        if not self.config.from_scratch:
            check_readable(checkpoint_folder(self.base))
        self.shards.check_tokenizer(load_tokenizer(self.base))
        vocabulary = language_config(self.base).vocab_size
        for shards in (self.shards, self._held_out or self.shards):
            largest = shards.metadata.largest_id
            if largest >= vocabulary:
                raise ValueError(
                    f"{shards.place} holds token {largest} but {self.base} has {vocabulary} words; "
                    "prepare the shards with this model's tokenizer"
                )

    def load(self) -> PreTrainedModel:
        settings = self.config
        stretched: dict[str, Any] = {
            "rope_theta": settings.rope_theta,
            "max_positions": settings.max_tokens,
        }
        built: dict[str, Any] = {"dtype": DTYPES[settings.dtype], "attn_implementation": NAME}
        if not settings.from_scratch:
            return load_language_model(self.base, **built, **stretched).model
        torch.manual_seed(settings.seed)
        return AutoModelForCausalLM.from_config(language_config(self.base, **stretched), **built)

    def loss_module(self, model: PreTrainedModel, group: dist.ProcessGroup | None) -> TextLoss:
        return TextLoss(model, group)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model().parameters()), "lr_factor": 1.0}]

    def identity(self) -> dict[str, Any]:
        return super().identity() | {
            "mask_documents": self.config.mask_documents,
            "rope_theta": self.config.rope_theta,
            "from_scratch": self.config.from_scratch,
        }

    def micro_batches(self, step: int) -> list[MicroBatch]:
        rows, size = self.rows(step, self.mesh().data_rank), self.config.rows_per_batch
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [self._micro_batch([self.shards[row] for row in batch]) for batch in batches]

    def validate(self, run: Callable[..., Any]) -> dict[str, float]:
        """`loss`: mean over all labelled tokens of the held-out rows, in nats."""
        shards, mesh = self.held_out(), self.mesh()
        batches = batches_in_order(
            len(shards),
            rows_per_batch=self.config.rows_per_batch,
            data_rank=mesh.data_rank,
            data_size=mesh.data_size,
        )
        loss, num_labels = 0.0, 0
        for rows in batches:
            read = [unlabelled(shards[0]) if row is None else shards[row] for row in rows]
            batch = self._micro_batch(read)
            loss += float(run(**batch.inputs, denominator=1))  # over all ranks already
            num_labels += batch.num_labels
        return {"loss": loss / float(sum_over_ranks([num_labels], self.device)[0])}

    def _micro_batch(self, rows: Sequence[TokenSequence]) -> MicroBatch:
        """This rank's share of some rows, one after the other."""
        documents = [self._documents(row) for row in rows]
        layout = ZigzagLayout(
            document_lengths=tuple(itertools.chain.from_iterable(documents)),
            world_size=self.mesh().ring_size,
        )
        return self.micro_batch(
            torch.from_numpy(np.concatenate([row.input_ids_T for row in rows]))[None].long(),
            torch.from_numpy(np.concatenate([row.is_label_T for row in rows]))[None],
            layout,
            num_tokens=sum(len(row.input_ids_T) - row.num_padding for row in rows),
            flops=training_flops(self.model().config, layout.document_lengths),
        )

    def _documents(self, row: TokenSequence) -> tuple[int, ...]:
        """Spans that see only themselves; without masking everything but padding is one."""
        if self.config.mask_documents:
            return row.document_lengths
        spans = (len(row.input_ids_T) - row.num_padding, row.num_padding)
        return tuple(length for length in spans if length > 0)

    def save(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        super().save(weights, folder)
        load_tokenizer(self.base).save_pretrained(folder)
