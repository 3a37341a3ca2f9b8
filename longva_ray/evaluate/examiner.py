"""A model that reads prompts of any kind and is scored on them, by both rules.

    prompt embeddings 1TD + answer ids -> teacher-forced score, free answer

What the needle tests on text and on video have in common: dense with a KV cache that consecutive
prompts share (`answer.prefix`), or over a ring of processes.

Shapes: T tokens of the prompt, D width of the language model.
"""

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.prefix import PrefixReader
from longva_ray.answer.ring_score import score_over_ring, token_scores_over_ring
from longva_ray.answer.score import AnswerScore, score_answer, token_nll
from longva_ray.evaluate.subjects import Subject, load_subject
from longva_ray.ring import hf
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.needles import SweepConfig


class Examiner:
    """A model that reads prompts and is scored on them: dense with a KV cache, or over a ring."""

    def __init__(
        self, subject: Subject, config: SweepConfig, group: dist.ProcessGroup | None = None
    ) -> None:
        attention = None
        if group is not None:
            hf.register()
            attention = hf.NAME
        self.model: PreTrainedModel
        self.model, self.tokenizer = load_subject(subject, attention=attention)
        if group is None:
            use_cached_attention(self.model)
        self._config = config
        self._group = group
        self.prefix_reader = PrefixReader(self.model, chunk=config.prefill_chunk)

    @torch.inference_mode()
    def embed(self, token_ids: list[int]) -> torch.Tensor:
        """Embeddings 1TD of text tokens."""
        ids = torch.tensor([token_ids], device=self.model.device)
        return self.model.get_input_embeddings()(ids)

    def examine(
        self, prompt_1TD: torch.Tensor, answer_ids: list[int]
    ) -> tuple[AnswerScore, str | None]:
        """Teacher-forced score, and the free answer (None if none is wanted, or over a ring)."""
        if self._group is not None:
            return score_over_ring(self.model, prompt_1TD, answer_ids, self._group), None
        prompt = self._read(prompt_1TD)
        score = score_answer(self.model, prompt, answer_ids)
        if not self._config.generate:
            return score, None
        settings = GenerationSettings(max_new_tokens=len(answer_ids) + self._config.extra_tokens)
        ids = list(generate_tokens(self.model, prompt, settings))
        return score, str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def token_nll(self, token_ids: list[int]) -> torch.Tensor:
        """Negative log-likelihood of tokens 1 .. T-1 of a text, each given all before it: (T-1)
        float32."""
        if self._group is None:
            ids_T = torch.tensor(token_ids, device=self.model.device)
            return token_nll(self.model, ids_T, chunk=self._config.prefill_chunk)
        targets_T = torch.tensor(token_ids[1:], device=self.model.device)
        logprobs_T, _ = token_scores_over_ring(
            self.model, self.embed(token_ids[:-1]), targets_T, start=0, group=self._group
        )
        return -logprobs_T

    def _read(self, prompt_1TD: torch.Tensor) -> Prefill:
        if self._config.reuse_prefix:
            return self.prefix_reader.read(prompt_1TD)
        return prefill(self.model, prompt_1TD, chunk=self._config.prefill_chunk)
