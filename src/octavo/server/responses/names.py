"""What a response calls the fields of chat."""

from __future__ import annotations

from octavo.server.field_names import FieldNames

RESPONSE_NAMES = FieldNames(
    leading={"logprobs": "top_logprobs", "messages": "input", "prompt": "input"},
    anywhere={
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    },
    places={r"tools\.(\d+)(?:\.function)?": r"tools[\1]"},
    message=(r"messages[\[.](\d+)\]?(?:\.tool_calls(?:\[\d+\])?)?", "{}"),
)
