"""Writes docs/configuration.md from the definition of the settings: `python -m tools.configuration_page`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from octavo.config.foreign import FOREIGN_FLAGS, ForeignFlag
from octavo.config.settings import ENV_PREFIX, Settings, flag_name
from octavo.config.values import kinds

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = f"""# Configuration

<!-- Written by tools/configuration_page.py from src/octavo/config; a test fails if it is not current. -->

Every setting has one name. It is a flag (`--max-num-seqs 64`), a key of the YAML file that `--config` names
(`max-num-seqs: 64`), an environment variable (`{ENV_PREFIX}MAX_NUM_SEQS=64`) and an argument of
`LLM(max_num_seqs=64)`. Flags win over the file, the file over the environment, and all of them over the default.
An unknown name stops the start and says the nearest known one. Switches have a twin that turns them off
(`--no-enable-prefix-caching`). Small letters count in thousands and capital letters in 1024s: `32k` is 32000, `32K` is
32768. Names and meanings are vLLM's where it has them.
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
    accepted = [flag for flag in FOREIGN_FLAGS.values() if flag.allowed is None]
    limited = [flag for flag in FOREIGN_FLAGS.values() if flag.allowed is not None]
    parts.append(
        "\n".join(
            [
                "## Flags of `vllm serve` that set nothing here",
                "",
                "Accepted with one line of warning, so that copied commands start:",
                "",
                "| Flag | Why it is not needed |",
                "| --- | --- |",
                *(f"| `--{flag.name}` | {flag.reason} |" for flag in accepted),
                "",
                "Accepted only with a value that asks for what Octavo does anyway, and refused otherwise:",
                "",
                "| Flag | Accepted | Else |",
                "| --- | --- | --- |",
                *(f"| `--{flag.name}` | {_allowed(flag)} | {flag.reason} |" for flag in limited),
                "",
            ]
        )
    )
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


def _allowed(flag: ForeignFlag) -> str:
    words = [word for word in flag.allowed or () if word not in ("none", "null", "false")]
    return ", ".join(f"`{word}`" for word in words) or "off"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
