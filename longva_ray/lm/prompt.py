"""Messages to token ids, with one placeholder id for every visual token.

    OpenAI-like messages, tokens of each image or video -> input_ids_T

The one chat template of the project is Qwen's ChatML, as in the released code (`qwen_1_5`). An
image or video stands in the text as `<image>` or `<video>` and a newline, so that `[video part,
text part]` gives the reference's `"<image>\\n" + question` (the released code writes `<image>` for
a video too; what stands there is never embedded, so the two are one prompt). The only item of a
message comes first, wherever its part stands, and blanks around it say nothing: that is what the
model was trained on, and OpenAI's own examples put the text first. Several items stay where they
stand. The rule is part of the template, so training, serving, scoring, evaluation and the processor
share it.

Text from a user is only ever text: `<image>` or `<|im_start|>` typed in a question is encoded as
ordinary characters. Does not encode pixels and never truncates.

Shape suffixes: T tokens of the whole sequence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

UNLIMITED = sys.maxsize
"""As `max_prompt_tokens`: prompts of any length, whatever the checkpoint's own limit."""


IMAGE_PLACEHOLDER = "<image>"


VIDEO_PLACEHOLDER = "<video>"


TURN_START = "<|im_start|>"


TURN_END = "<|im_end|>"


Message = Mapping[str, Any]


ROLES = ("system", "user", "assistant")


PART_TYPES = ("text", "image", "video")


CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- set here = namespace(num_items=0, item='', before='', after='') -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' or part['type'] == 'video' -%}
                {%- set here.num_items = here.num_items + 1 -%}
                {%- set here.item = '<image>\\n' if part['type'] == 'image' else '<video>\\n' -%}
            {%- elif part['type'] == 'text' and here.num_items -%}
                {%- set here.after = here.after + part['text'] -%}
            {%- elif part['type'] == 'text' -%}
                {%- set here.before = here.before + part['text'] -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if here.num_items == 1 -%}
            {{- here.item + here.before.rstrip() -}}
            {%- if here.before.strip() and here.after.strip() -%}{{- '\\n' -}}{%- endif -%}
            {{- here.after.lstrip() -}}
        {%- else -%}
            {%- for part in message['content'] -%}
                {%- if part['type'] == 'text' -%}{{- part['text'] -}}
                {%- elif part['type'] == 'image' -%}{{- '<image>\\n' -}}
                {%- elif part['type'] == 'video' -%}{{- '<video>\\n' -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    item_token_counts: Sequence[int],
    *,
    max_prompt_tokens: int | None = None,
) -> Tensor:
    """The ids of a conversation up to where the assistant answers, one for each visual token.

    Args:
        tokenizer: one that has `<image>`, `<video>` and ChatML's tokens (every checkpoint loaded
            here does).
        messages: `{"role": "system"|"user"|"assistant", "content": str | [{"type": "text", "text":
            ...}, {"type": "image"}, {"type": "video"}]}`. Without a system message the template's
            own comes first.
        item_token_counts: visual tokens of each image or video, in the order they appear.
        max_prompt_tokens: the checkpoint's limit, None for none.

    Returns:
        input_ids_T (int64, CPU).

    Raises:
        ValueError: malformed messages, another number of items than placeholders, too long a
            prompt, or a tokenizer without the tokens needed.
    """
    check_messages(messages)
    text_ids: Any = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=CHAT_TEMPLATE,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=False,
    )
    input_ids_T = expand_placeholders(
        text_ids, item_token_counts, placeholder_ids=placeholder_ids(tokenizer)
    )
    check_prompt_length(len(input_ids_T), max_prompt_tokens)
    return input_ids_T


def expand_placeholders(
    token_ids: Sequence[int], item_token_counts: Sequence[int], *, placeholder_ids: Sequence[int]
) -> Tensor:
    """Repeat each placeholder for the visual tokens of its item: ids -> input_ids_T.

    Raises:
        ValueError: the number of placeholders is not that of the items, or an item has no tokens.
    """
    ids = torch.tensor(token_ids, dtype=torch.int64)
    is_placeholder = torch.isin(ids, torch.tensor(placeholder_ids))
    num_placeholders = int(is_placeholder.sum())
    if num_placeholders != len(item_token_counts):
        raise ValueError(
            f"the prompt has {num_placeholders} <image>/<video> placeholder(s) but "
            f"{len(item_token_counts)} item(s) were given; want one for each image or video"
        )
    if any(count < 1 for count in item_token_counts):
        raise ValueError(
            f"want at least one visual token an item, got counts {list(item_token_counts)}"
        )
    repeats = torch.ones_like(ids)
    repeats[is_placeholder] = torch.tensor(item_token_counts, dtype=torch.int64)
    return ids.repeat_interleave(repeats)


def check_prompt_length(num_tokens: int, max_prompt_tokens: int | None) -> None:
    """Refuse a prompt beyond the limit, the checkpoint's or the caller's own (the released code
    cuts its end off).

    Raises:
        ValueError: with both lengths and how to lift the limit.
    """
    if max_prompt_tokens is not None and num_tokens > max_prompt_tokens:
        raise ValueError(
            f"prompt of {num_tokens} tokens exceeds the limit of {max_prompt_tokens}; give fewer "
            "frames or images, or raise max_prompt_tokens"
        )


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Ids of `<image>` and `<video>`.

    Raises:
        ValueError: the tokenizer lacks one of the tokens a prompt is made of.
    """
    known = tokenizer.get_added_vocab()
    wanted = (TURN_START, TURN_END, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)
    missing = [token for token in wanted if token not in known]
    if missing:
        raise ValueError(
            f"the tokenizer lacks the special token(s) {', '.join(missing)}; want a ChatML "
            "tokenizer (Qwen2, SmolLM2) after longva_ray.lm.prompt.add_placeholders"
        )
    return known[IMAGE_PLACEHOLDER], known[VIDEO_PLACEHOLDER]


def add_placeholders(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Give the tokenizer `<image>` and `<video>` if it lacks them (in place); returns their ids.

    The new ids may lie beyond the model's embedding table, which then needs no resizing: they are
    never looked up (`longva_ray.lm.splice`).

    Raises:
        ValueError: the tokenizer has no ChatML tokens.
    """
    known = tokenizer.get_added_vocab()
    missing = [token for token in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER) if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    return placeholder_ids(tokenizer)


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what the template would silently skip or print wrongly.

    Raises:
        ValueError: names the message and the part.
    """
    if not messages:
        raise ValueError("a prompt needs at least one message, got none")
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number} has role {role!r}, want one of {', '.join(ROLES)}")
        if isinstance(content, str):
            check_unicode(content, f"the text of message {number}")
            continue
        if not isinstance(content, Sequence):
            raise ValueError(
                f"message {number} has content of type {type(content).__name__}, want a "
                "string or a list of parts"
            )
        for part in content:
            _check_part(number, part)


def check_unicode(text: str, what: str) -> None:
    """Refuse half of a surrogate pair, which JSON can spell but no tokenizer can read.

    Raises:
        ValueError: `what` names the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise ValueError(
            f"{what} is not Unicode: character {error.start} is {half}, half of a surrogate pair; "
            "send both halves, or leave it out"
        ) from error


def _check_part(number: int, part: Any) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in PART_TYPES:
        raise ValueError(
            f"message {number} has a part of type {kind!r}, want one of {', '.join(PART_TYPES)}"
        )
    if kind == "text" and not isinstance(part.get("text"), str):
        raise ValueError(f"message {number} has a text part without a string under 'text'")
    if kind == "text":
        check_unicode(part["text"], f"the text of message {number}")
