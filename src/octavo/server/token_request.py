"""The bodies of POST /tokenize and POST /detokenize, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StrictInt

from octavo.errors import RequestError
from octavo.server.body import Body, BodyReader
from octavo.server.chat_request import ChatFields, Message
from octavo.server.json_pieces import Pieces, encode, list_pieces, text_pieces
from octavo.server.tool_fields import checked_tools
from octavo.text.tokenizer import Tokenizer, token_text


class TokenizeRequest(ChatFields):
    """A text, or messages."""

    messages: Annotated[list[Message], Field(default=[], min_length=1, fail_fast=True)]
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    def prepare(self, reader: BodyReader) -> Pieces:
        ids = self._ids(reader)
        head = encode({"count": len(ids), "max_model_len": reader.engine_config.max_model_len}).removesuffix(b"}")
        strings = list_pieces(_texts(reader.tokenizer, ids)) if self.return_token_strs else [b"null"]
        return [head + b',"tokens":', *list_pieces(ids), b',"token_strs":', *strings, b"}"]

    def _ids(self, reader: BodyReader) -> Sequence[int]:
        if self.prompt is not None and self.messages:
            raise RequestError("give prompt or messages, not both", param="messages")
        if self.messages:
            checked_tools(self.tools or [])
            return self.render(reader, add_special_tokens=bool(self.add_special_tokens)).token_ids
        if self.prompt is None:
            raise RequestError("prompt: Field required (or messages)", param="prompt")
        return reader.tokenizer.encode(self.prompt, add_special_tokens=self.add_special_tokens is not False)


class DetokenizeRequest(Body):
    """Token ids."""

    tokens: Annotated[list[StrictInt], Field(fail_fast=True)]

    def prepare(self, reader: BodyReader) -> Pieces:
        ids, vocabulary = self.tokens, reader.engine_config.vocab_size
        if ids and (min(ids) < 0 or max(ids) >= vocabulary):
            wrong = next(id_ for id_ in ids if not 0 <= id_ < vocabulary)
            raise RequestError(f"tokens holds id {wrong}; ids go from 0 to {vocabulary - 1}", param="tokens")
        return text_pieces(encode({"prompt": reader.tokenizer.decode(ids, skip_special_tokens=False)}))


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each id; equal ones are one object."""
    texts = {id_: token_text(tokenizer, id_) for id_ in set(ids)}
    return [texts[id_] for id_ in ids]
