"""Fields that no message request here has: which change nothing, which are refused."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.errors import RequestError
from octavo.server import unserved
from octavo.server.chat_request import ChatRequest
from octavo.server.fields import Json
from octavo.server.unserved import Refusal

_CHAT = "it belongs to /v1/chat/completions"
_ONE_PLACE = "there is one server; leave it out"
_ONE_MODEL = "there is one model"
REFUSED: Mapping[str, Refusal] = {
    **unserved.REFUSED,
    **{name: ((None, field.get_default()), _CHAT) for name, field in ChatRequest.model_fields.items()},
    "max_tokens_to_sample": ((None,), "use max_tokens"),
    "output_format": ((None,), "use output_config.format"),
    "mcp_servers": ((None, []), "the server calls no tools; the client does"),
    "container": ((None,), "the server runs no code"),
    "inference_geo": ((None,), _ONE_PLACE),
    "speed": ((None, "standard"), "there is one speed"),
    "diagnostics": ((None,), "usage says how much of the prompt was cached"),
    "fallbacks": ((None, []), _ONE_MODEL),
    "fallback_credit_token": ((None,), _ONE_MODEL),
    "billing_policy": ((None,), "nothing is paid for"),
    "compaction": ((None,), "conversations are not made shorter here; send the messages that count"),
    "thread": ((None,), "nothing is stored; send all messages"),
    "user_profile_id": ((None,), "use metadata"),
}
"""Those of chat that a message has too never come here."""

_KEEPS_ALL = {"type": "clear_thinking_20251015", "keep": "all"}


def check_edits(management: Json | None) -> None:
    """Raises RequestError if `context_management` wants anything left out of the messages."""
    given = dict(management or {})
    edits = given.pop("edits", None) or []
    if given or not isinstance(edits, list) or any(edit != _KEEPS_ALL for edit in edits):
        raise RequestError(
            "context_management: messages are shown as they come; leave out what the model is not to read",
            param="context_management",
        )
