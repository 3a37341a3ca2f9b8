"""Whether preference shards fit the model that is to be trained, at the price of reading it once.

Stored log-probabilities are those of one model alone. A live reference needs less: the same tokens
of text, and the same visual tokens in the store.
"""

import torch

from longva_ray.data.preferences.seen import MediaTokens
from longva_ray.data.preferences.shards import PreferenceShardError, PreferenceShards
from longva_ray.lm.fingerprints import fingerprint_checkpoint, tokenizer_fingerprint
from longva_ray.lm.layout import open_checkpoint
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.training import Reference
from longva_ray.shards.schema import ShardError


def check_reference(shards: PreferenceShards, base: str, reference: Reference) -> None:
    """Raises PreferenceShardError for shards without the log-probabilities that are wanted, or
    prepared with a model that `base` cannot stand for."""
    prepared = fingerprint_checkpoint(base) == shards.metadata.reference
    if reference == "live":
        if not prepared:
            _check_tokens(shards, base)
        return
    if not shards[0].reference:
        raise PreferenceShardError(
            f"{shards.place} holds no log-probabilities of the reference; train with "
            "--prefer.reference live, or prepare the preferences again with "
            "--preferences.reference stored"
        )
    if not prepared:
        raise PreferenceShardError(
            f"the log-probabilities in {shards.place} are not those of {base}, which training "
            "would start from; train the model that prepared them, train with --prefer.reference "
            "live, or prepare the preferences again with this one"
        )


def _check_tokens(shards: PreferenceShards, base: str) -> None:
    different = []
    if tokenizer_fingerprint(open_checkpoint(base).tokenizer()) != shards.metadata.tokenizer:
        different.append("tokenizer")
    spec = shards.metadata.spec
    encoder = load_frame_encoder(base, dtype=getattr(torch, spec.dtype))
    if encoder.fingerprint() != spec.encoder_fingerprint:
        different.append("vision tower or projector")
    if different:
        raise PreferenceShardError(
            f"{shards.place} was prepared with another {' and '.join(different)} than {base} has; "
            "prepare the preferences again with this model"
        )


def check_store(tokens: MediaTokens, shards: PreferenceShards) -> None:
    """Raises PreferenceShardError where the store does not have what the first row shows."""
    first = shards[0]
    try:
        tokens.take(first.medium, first.frames_F, torch.zeros(1, dtype=torch.int64))
    except (KeyError, ShardError) as error:
        raise PreferenceShardError(
            f"{error.args[0]}; say where the videos of these pairs are encoded (--store), or "
            "prepare the preferences again"
        ) from error
