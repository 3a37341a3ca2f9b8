"""A tokenizer that needs no download: one token for each byte, and five special tokens.

    text <-> ids: byte b is id b (0..255), then <|endoftext|>, <|im_start|>, <|im_end|>, <image>,
    <video> (256..260)

For small models of tests. Any UTF-8 text survives encoding and decoding; a text costs as many
tokens as it has bytes. The placeholders come last, so that a language model with a vocabulary of
`BYTE_VOCABULARY_SIZE` can neither embed nor emit them: visual tokens take their places before the
model sees them.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from longva_ray.tiny.tokenizer import chat_tokenizer

BYTE_VOCABULARY_SIZE = 259  # 256 bytes and the three control tokens, without the two placeholders


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A fresh byte-level tokenizer; every call returns an equal one."""
    symbols = bytes_to_unicode()  # the printable stand-in of each byte, as in GPT-2
    vocabulary = {symbols[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return chat_tokenizer(tokenizer)
