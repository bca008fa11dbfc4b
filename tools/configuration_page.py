"""Writes docs/configuration.md from the definition of the settings: `python -m tools.configuration_page`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from octavo.config.layers import ENV_PREFIX, flag_name
from octavo.config.settings import Settings
from octavo.config.values import kinds
from octavo.config.vllm_flags import VLLM_FLAGS
from octavo.config.vllm_names import VllmName
from octavo.config.vllm_variables import VARIABLES, Honoured

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = f"""# Configuration

<!-- Written by tools/configuration_page.py from src/octavo/config; a test fails if it is not current. -->

Every setting has one name. It is a flag (`--max-num-seqs 64`), a key of the YAML file that `--config` names
(`max-num-seqs: 64`), an environment variable (`{ENV_PREFIX}MAX_NUM_SEQS=64`) and an argument of
`LLM(max_num_seqs=64)`. Flags win over the file, the file over the environment, and all of them over the default.
Keys of a JSON object may be flags of their own: `--default-chat-template-kwargs.enable_thinking false`.
An unknown name stops the start and says the nearest known one. Switches have a twin that turns them off
(`--no-enable-prefix-caching`). Small letters count in thousands and capital letters in 1024s: `32k` is 32000, `32K` is
32768. Names and meanings are vLLM's where it has them.
"""

FLAGS = """## Flags of `vllm serve` that set nothing here

So that copied commands start. A value that asks for what Octavo does anyway is taken in silence; any other gets a line
in the log, or stops the start where the user would not get what was asked for.
"""
ENVIRONMENT = """## Variables of vLLM

Read by the command `octavo`, below all other sources. Unknown ones that begin with `VLLM_` are named in one line of the
log, but for those that Kubernetes sets beside a service named `vllm`.
"""

KINDS = {bool: "switch", int: "number", float: "number", str: "text", tuple: "texts", dict: "JSON object"}


def page() -> str:
    """The whole page."""
    fields = dataclasses.fields(Settings)
    parts = [HEAD]
    for group in dict.fromkeys(field.metadata["group"] for field in fields):
        rows = [_row(field) for field in fields if field.metadata["group"] == group]
        parts.append(
            "\n".join(
                [f"## {group}", "", "| Flag | Value | Default | Meaning |", "| --- | --- | --- | --- |", *rows, ""]
            )
        )
    parts.append(_table(FLAGS, [_vllm_name(f"--{flag.name}", flag.answer) for flag in VLLM_FLAGS.values()]))
    parts.append(_table(ENVIRONMENT, [_variable(name, known) for name, known in VARIABLES.items()]))
    return "\n".join(parts)


def _row(field: dataclasses.Field[object]) -> str:
    choices = field.metadata.get("choices")
    kind = kinds(Settings)[field.name]
    value = ", ".join(f"`{choice}`" for choice in choices) if choices else KINDS[kind.base]
    return f"| `{flag_name(field.name)}` | {value} | {_default(field.default)} | {field.metadata['help']} |"


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(value) if isinstance(value, tuple) else value}`"


def _table(head: str, rows: list[str]) -> str:
    columns = ["| Name | In silence | Else | Why, and what to do instead |", "| --- | --- | --- | --- |"]
    return "\n".join([head, *columns, *rows, ""])


def _vllm_name(name: str, known: VllmName) -> str:
    same = ", ".join(f"`{_switch(word)}`" for word in known.same)
    return f"| `{name}` | {same} | {known.else_} | {known.reason} |"


def _variable(name: str, known: Honoured | VllmName) -> str:
    match known:
        case Honoured(setting):
            return f"| `{name}` | any value | | sets `{flag_name(setting)}` |"
        case other:
            return _vllm_name(name, other)


def _switch(word: str) -> str:
    return {"true": "on", "false": "off"}.get(word, word)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
