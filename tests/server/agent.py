"""A model that calls tools, as far as a server can tell: scripted answers, and a template that shows tools."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from octavo.text.tokenizer import FileTokenizer
from server.harness import EOS, Running, byte_tokenizer, running

TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}"
    "{{- '\\n</tools> <tool_call>{}</tool_call><|im_end|>\\n' }}{% endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{- message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{{- '<tool_call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
QUESTION = {"role": "user", "content": "How is the weather in Köln?"}


@contextlib.contextmanager
def talking(
    says: str | Callable[[str], str],
    *,
    tokenizer: FileTokenizer | None = None,
    template: str = TEMPLATE,
    worker: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server whose model answers `says`, or `says(prompt)`."""
    tokens = tokenizer or byte_tokenizer()

    def answer(prompt: Sequence[int]) -> list[int]:
        text = says if isinstance(says, str) else says(tokens.decode(prompt, skip_special_tokens=False))
        return [*tokens.encode(text), EOS]

    engine = {"max_model_len": 4096, "num_blocks": 1024, "max_num_batched_tokens": 1024, **(engine or {})}
    worker = {"says": answer, **(worker or {})}
    with running(worker=worker, engine=engine, tokenizer=tokens, template=template, **options) as server:
        yield server
