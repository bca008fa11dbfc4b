"""Text to token ids and back, from a model folder's tokenizer.json. No transformers, no code from the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders

from octavo.config.json_file import read_json_object
from octavo.config.model_file import require_file
from octavo.errors import CheckpointError, RequestError

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer(Protocol):
    """A tokenizer, as the server needs one."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a text; 0 without a tokenizer."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out."""
        ...

    @property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token` ... to their text, for chat templates."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """tokenizer_config.json, as `/tokenizer_info` shows it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers from equal files, wherever these lie."""
        ...

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token, as the tokenizer's file writes it, to its id."""
        ...

    @property
    def context_free(self) -> bool:
        """The bytes of a text are the joined `piece` of its ids; else `decode` needs the neighbours."""
        ...

    @property
    def longest_token(self) -> int | None:
        """Characters that no token exceeds; None if a token may stand for a text of any length."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`.

        Raises:
            RequestError: there is no tokenizer, or `text` is not Unicode text.
        """
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a text count as empty, bytes that are not UTF-8 become U+FFFD."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes `token_id` stands for; empty for an id without a text."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json` and `tokenizer_config.json` of `folder`; a folder without the first gives `NoTokenizer`.

    Raises:
        CheckpointError: a file is there but cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return NoTokenizer()
    require_file(path)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception
        raise CheckpointError(f"is not a tokenizer: {exc}", file=str(path)) from exc
    return FileTokenizer(backend, read_tokenizer_config(folder), folder)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` over `special_tokens_map.json`; empty if neither is there."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            config.update(read_json_object(path))
    return config


class FileTokenizer:
    """A tokenizer of the `tokenizers` library with its configuration; `folder` is where another process can read it."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any], folder: Path | None = None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.info = config
        self.special_tokens = {name: _content(config[name]) for name in SPECIAL_NAMES if config.get(name) is not None}
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()
        self.context_free = isinstance(backend.decoder, decoders.ByteLevel)
        # Byte-level vocabularies have no unknown token; a normalizer may join up to three characters in one.
        self.longest_token = 3 * max(map(len, vocabulary), default=1) if self.context_free else None
        self._pieces: dict[int, bytes] = {}
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        """Pickles the folder if there is one: to write a large vocabulary holds up all threads for a third of a second."""
        if self._folder is not None:
            return load_tokenizer, (self._folder,)
        return FileTokenizer, (self._backend, self.info)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        try:
            # As a batch of one: unlike `encode` it lets other threads run; and fast: it looks for no offsets.
            ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except (UnicodeError, TypeError) as exc:
            raise RequestError("the text is not valid Unicode (a lone surrogate?)", param="prompt") from exc
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        # As a batch of one: unlike `decode` it lets other threads run.
        text: str = self._backend.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)[0]
        return text

    def piece(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._find_piece(token_id)
        return piece

    @property
    def vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    def _find_piece(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if not self.context_free:
            return self.decode([token_id], skip_special_tokens=False).encode()
        try:
            return bytes(_BYTE_OF_CHAR[char] for char in token)
        except KeyError:  # an added token with characters outside the alphabet stands for itself
            return str(token).encode()


class NoTokenizer:
    """Stands in for a missing tokenizer: prompts come as token ids, answers have no text."""

    vocab_size = 0
    special_ids: frozenset[int] = frozenset()
    special_tokens: dict[str, str] = {}  # noqa: RUF012 - the protocol has it per instance
    info: dict[str, Any] = {}  # noqa: RUF012
    fingerprint = ""
    vocabulary: dict[str, int] = {}  # noqa: RUF012
    context_free = True
    longest_token = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raise RequestError("the model folder has no tokenizer.json: send the prompt as token ids", param="prompt")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return ""

    def piece(self, token_id: int) -> bytes:
        return b""


def _content(token: Any) -> str:
    """The text of a token in a configuration file: a string, or an object with `content`."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _byte_alphabet() -> dict[str, int]:
    """Character to byte in byte-level BPE: printable Latin-1 stands for itself, the rest for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


_BYTE_OF_CHAR = _byte_alphabet()


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """How logprobs name a token: its text, `bytes:\\xe2\\x80` if it is a part of a character, `token_id:7` if it has none."""
    piece = tokenizer.piece(token_id)
    if not piece:
        return f"token_id:{token_id}"
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
