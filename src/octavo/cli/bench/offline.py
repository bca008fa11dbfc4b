"""Serves the offline benchmarks with an `LLM` made from flags, with prompts, and with a JSON file for the result."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.bench.prompts import random_prompts
from octavo.cli.flags import settings_from
from octavo.config import Settings

if TYPE_CHECKING:
    from octavo.llm import LLM

GROUPS = ("Model", "Memory and schedule", "Worker")
"""The settings that an `LLM` reads."""


def start_llm(args: argparse.Namespace, **changes: Any) -> LLM:
    """An `LLM` with the settings of the flags, and `changes` to them."""
    from octavo.llm import LLM

    settings = dataclasses.replace(settings_from(args), **changes)
    return LLM(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)})


def token_prompts(llm: LLM, count: int, length: int) -> list[dict[str, Any]]:
    """`count` random prompts of `length` tokens, seeded by the settings."""
    prompts = random_prompts(count=count, length=length, vocab_size=llm.vocab_size, seed=llm.settings.seed)
    return [{"prompt_token_ids": prompt} for prompt in prompts]


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write `result` if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
