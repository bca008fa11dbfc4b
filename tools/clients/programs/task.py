"""What every client is asked to do, and how it tells that it was done. OPENAI_BASE_URL and MODEL name the server."""

from __future__ import annotations

import os
from typing import Any

import pydantic

MODEL = os.environ["MODEL"]
BASE_URL = os.environ["OPENAI_BASE_URL"]
QUESTION = "What is 23 * 4? Use the calculator."
RESULT = "92"
FACTS = "Answer as JSON with the keys name, age: Anna is 31 years old."
CALCULATOR: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    age: int


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    left, right = expression.replace("x", "*").replace("×", "*").split("*")
    return str(int(left) * int(right))


def done(what: str, holds: object) -> None:
    """Say that `what` was done; end the program if it was not."""
    if not holds:
        raise SystemExit(f"failed: {what}")
    print(f"done: {what}", flush=True)
