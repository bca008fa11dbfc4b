"""Makes a model folder with a tokenizer as large as real ones, from what lies on every machine."""

from __future__ import annotations

import itertools
import json
import re
import string
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from octavo.config import Settings
from octavo.startup.model import load_model

PIECE = re.compile(rb" ?[A-Za-z]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9]+|\s+")
"""Roughly what byte-level tokenizers cut text into before they look for tokens."""
MOST_BYTES = 96 << 20
"""Of source files that pieces are counted in."""
LONGEST = 24
"""Bytes of a piece."""
SIGNS = re.compile(rb"\s?[^\sA-Za-z0-9]+")
MOST_SIGNS = 2800
"""Pieces of nothing but signs. Mistral's Tekken (mistral-common 1.13, 130,072 ids) has 2,763, of which 496 have a quote; sources have
tens of thousands, and each that has a quote must be tried where a string may end."""

MOST_PARTS = 64
"""Words of which longer ones are made."""


def make_model(folder: Path, name: str, vocab_size: int) -> Path:
    """Write to `folder` the config of the model `name` with `vocab_size` ids, and a tokenizer of as many; returns `folder`.

    The tokens are all bytes and the commonest pieces of the Python sources that are installed, then words made of these if those
    sources are too few. It has no merges, so that a text becomes bytes; what grammars cost depends on the vocabulary alone.
    """
    config = json.loads((load_model(Settings(model=name)).folder / "config.json").read_text())
    end = vocab_size - 1
    config |= {"vocab_size": vocab_size, "eos_token_id": end, "bos_token_id": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = common_pieces(vocab_size)
    words = itertools.chain(alphabet, (piece for piece in pieces if len(piece) > 1), made_words(pieces))
    numbered = {piece: number for number, piece in enumerate(itertools.islice(unique(words), end))}
    made = tokenizers.Tokenizer(models.BPE(vocab=numbered, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken("<|end|>", special=True)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return folder


def unique(words: Iterable[str]) -> Iterator[str]:
    """Yield each of `words` once."""
    seen: set[str] = set()
    for word in words:
        if word not in seen:
            seen.add(word)
            yield word


def made_words(pieces: Iterable[str]) -> Iterator[str]:
    """Yield words for ever: the commonest ones among `pieces` one behind the other, at first two, then more."""
    words = [*string.ascii_lowercase, *(piece for piece in pieces if piece.isascii() and piece.isalpha())][:MOST_PARTS]
    for count in itertools.count(2):
        yield from map("".join, itertools.product(unique(words), repeat=count))


def common_pieces(count: int) -> list[str]:
    """The commonest pieces of installed sources in the characters of byte-level tokenizers, commonest first."""
    counted: Counter[bytes] = Counter()
    left = MOST_BYTES
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_bytes()[:left]
        counted.update(PIECE.findall(text))
        left -= len(text)
        if left <= 0:
            break
    written = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    commonest = [piece for piece, _ in counted.most_common() if len(piece) <= LONGEST]
    signs = {*[piece for piece in commonest if SIGNS.fullmatch(piece)][MOST_SIGNS:]}
    kept = [piece for piece in commonest if piece not in signs][: 2 * count]
    pieces = [piece.decode("utf-8", "ignore") for piece in kept]
    return ["".join(part for part, _ in written.pre_tokenize_str(piece)) for piece in pieces if piece]
