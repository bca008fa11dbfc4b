"""Errors of chat name the fields of the protocol that was spoken."""

from __future__ import annotations

import pydantic
import pytest

from octavo.errors import RequestError
from octavo.server.chat_request import ChatRequest
from octavo.server.field_names import FieldNames
from octavo.server.messages.names import MESSAGE_NAMES
from octavo.server.responses.names import RESPONSE_NAMES

ORIGINS = ["system", "messages.0.content.1"]
ITEMS = ["instructions", "input[0]"]


@pytest.mark.parametrize(
    ("names", "origins", "said", "here"),
    [
        (FieldNames(), (), "messages[1].role: stop, prompt", "messages[1].role: stop, prompt"),
        (MESSAGE_NAMES, ORIGINS, "messages[1].role is odd", "messages.0.content.1: role is odd"),
        (MESSAGE_NAMES, ORIGINS, "the template refuses messages[1]", "the template refuses messages[1]"),
        (MESSAGE_NAMES, (), "stop must not stop it", "stop_sequences must not stop it"),
        (MESSAGE_NAMES, (), "leave out reasoning_effort", "leave out output_config.effort"),
        (MESSAGE_NAMES, (), "say reasoning_effort none", "say thinking of type disabled"),
        (MESSAGE_NAMES, (), "tools.3.function.parameters.type: no", "tools.3.input_schema.type: no"),
        (MESSAGE_NAMES, (), "tools.3.function.name: no", "tools.3.name: no"),
        (RESPONSE_NAMES, ITEMS, "messages[1].role is odd", "input[0].role is odd"),
        (RESPONSE_NAMES, ITEMS, "messages[1].tool_calls[0] is odd", "input[0] is odd"),
        (RESPONSE_NAMES, ITEMS, "messages.0.content is odd", "instructions.content is odd"),
        (RESPONSE_NAMES, (), "messages[1] is odd", "input is odd"),
        (RESPONSE_NAMES, (), "prompt is no prompt", "input is no prompt"),
        (RESPONSE_NAMES, (), "too much for max_tokens", "too much for max_output_tokens"),
        (RESPONSE_NAMES, (), "tools.3.function.name: no", "tools[3].name: no"),
        (
            RESPONSE_NAMES,
            (),
            "tools.3.function.parameters.properties.max_tokens: 'max_tokens' is no type",
            "tools[3].parameters.properties.max_tokens: 'max_tokens' is no type",
        ),
        (
            MESSAGE_NAMES,
            (),
            "response_format: at #/properties/response_format: no",
            "output_config.format: at #/properties/response_format: no",
        ),
    ],
)
def test_an_error_says_what_a_field_is_called_here(names: FieldNames, origins: list[str], said: str, here: str) -> None:
    with pytest.raises(RequestError) as caught, names.renaming(origins):
        raise RequestError(said, param=said)
    assert (caught.value.message, caught.value.param) == (here, here)


@pytest.mark.parametrize(
    ("names", "field"), [(MESSAGE_NAMES, "output_config.effort"), (RESPONSE_NAMES, "reasoning.effort")]
)
def test_what_chat_cannot_hold_is_a_request_error_too(names: FieldNames, field: str) -> None:
    with pytest.raises(RequestError) as caught, names.renaming():
        ChatRequest.model_validate({"messages": [{"role": "user"}], "reasoning_effort": "odd"})
    assert caught.value.param == field
    with pytest.raises(pydantic.ValidationError):
        ChatRequest.model_validate({"messages": [{"role": "user"}], "reasoning_effort": "odd"})
