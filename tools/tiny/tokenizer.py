"""The byte tokenizer: token id = byte value, then the chat marks. Text in, the same text out, whatever it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT, IM_START, IM_END, CALL, CALL_END, THINK, THINK_END = range(256, 263)
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never shown to readers of an answer."""
TAGS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Part of an answer's text, which parsers read."""
SPARE = "<|reserved_4|>"
MARKS = (*CONTROLS, *TAGS, SPARE)
"""By their ids, from 256 on."""

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
"""Tools are shown in a line each, `name(parameter: type, optional?: type): description`: with a token for each byte,
their JSON schemas would take the most of a prompt."""

_TAG = re.compile("|".join(map(re.escape, TAGS)))


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255 in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def build() -> Tokenizer:
    """256 byte tokens without merges, and the marks."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(mark, special=mark not in TAGS, normalized=False) for mark in MARKS])
    return tokenizer


def encode(text: str) -> list[int]:
    """The ids of `text`, which holds tags and no other marks, as the built tokenizer gives them."""
    ids: list[int] = []
    end = 0
    for tag in _TAG.finditer(text):
        ids += text[end : tag.start()].encode()
        ids.append(CALL + TAGS.index(tag[0]))
        end = tag.end()
    return [*ids, *text[end:].encode()]


def write(folder: Path, *, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template) into `folder`."""
    build().save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
