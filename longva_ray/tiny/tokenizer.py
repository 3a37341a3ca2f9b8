"""The tokenizer of the tiny world: its words are tokens, and any other text is bytes.

    text <-> ids: byte b is id b (0..255), then the words, then <|endoftext|>, <|im_start|>,
    <|im_end|>, and last <image>, <video>

A text is split as Qwen2 splits it (a word keeps the space before it), but for numbers, which are
cut into pairs of digits. A piece that is in the vocabulary is one token, and any other piece is as
many tokens as it has bytes. So every UTF-8 text survives, and a described scene is four tokens.
Nothing is learned from data: the vocabulary is a list, the same every time. The two placeholders
come last, so that a language model with a vocabulary of `TINY_VOCABULARY_SIZE` can neither embed
nor emit them: visual tokens take their places before the model sees them.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from longva_ray.lm.prompt import IMAGE_PLACEHOLDER, TURN_END, TURN_START, VIDEO_PLACEHOLDER
from longva_ray.tiny.words import vocabulary

END_OF_TEXT = "<|endoftext|>"


# Qwen2's rule, without English contractions, but digits go in pairs and keep the space before them:
# a digit is found ten times in a text, a pair seldom twice, so it tells a number from another.
_PIECES = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


TINY_VOCABULARY_SIZE = 256 + len(vocabulary()) + 3  # without the two placeholders


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A fresh tokenizer of the tiny world; every call returns an equal one."""
    symbols = bytes_to_unicode()  # the printable stand-in of each byte, as in GPT-2
    words = ["".join(symbols[byte] for byte in form.encode()) for form in vocabulary()]
    ids = {symbol: number for number, symbol in enumerate([symbols[b] for b in range(256)] + words)}
    # Without merges, a piece that is no word falls apart into its bytes.
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return chat_tokenizer(tokenizer)


def chat_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """`tokenizer` for transformers, with ChatML's control tokens and the placeholders after its own
    tokens: <|endoftext|>, <|im_start|>, <|im_end|>, <image>, <video>."""
    control = (END_OF_TEXT, TURN_START, TURN_END, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
