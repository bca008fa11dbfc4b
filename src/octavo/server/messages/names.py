"""What a message calls the fields of chat."""

from __future__ import annotations

from octavo.server.field_names import FieldNames

MESSAGE_NAMES = FieldNames(
    leading={"stop": "stop_sequences", "prompt": "messages"},
    anywhere={
        "response_format": "output_config.format",
        "reasoning_effort none": "thinking of type disabled",
        "reasoning_effort": "output_config.effort",
        "thinking_token_budget": "thinking.budget_tokens",
    },
    places={r"(tools\.\d+)\.function\.parameters": r"\1.input_schema", r"(tools\.\d+)\.function": r"\1"},
    message=(r"^messages\[(\d+)\]\.?", "{}: "),
)
