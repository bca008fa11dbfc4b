"""Parsers by the names that `--tool-call-parser` and `--reasoning-parser` know, and the one that fits a chat template."""

from __future__ import annotations

from collections.abc import Mapping

from octavo.answers.parsers.call_form import CallForm
from octavo.answers.parsers.glm import Glm
from octavo.answers.parsers.hermes import Hermes
from octavo.answers.parsers.llama import Llama
from octavo.answers.parsers.minimax_m2 import MiniMaxM2
from octavo.answers.parsers.mistral import Mistral
from octavo.answers.parsers.pythonic import Pythonic
from octavo.answers.parsers.qwen3_coder import Qwen3Coder
from octavo.answers.parsers.reasoning import CLOSE, DeepSeekR1, Glm45, MiniMax, Qwen3, Think

CALL_FORMS: Mapping[str, type[CallForm]] = {
    "qwen3_coder": Qwen3Coder,
    "qwen3_xml": Qwen3Coder,
    "glm45": Glm,
    "glm47": Glm,
    "minimax_m2": MiniMaxM2,
    "mistral": Mistral,
    "pythonic": Pythonic,
    "llama4_pythonic": Pythonic,
    "llama3_json": Llama,
    "llama4_json": Llama,
    "hermes": Hermes,
    "qwen3": Hermes,
}
"""Those whose traits others show too come later."""
REASONING: Mapping[str, type[Think]] = {
    "qwen3": Qwen3,
    "glm45": Glm45,
    "deepseek_r1": DeepSeekR1,
    "minimax": MiniMax,
    "minimax_m2": MiniMax,
}
_REASONING_TRAITS = {"<arg_key>": "glm45", "<minimax:tool_call>": "minimax_m2", "<｜Assistant｜>": "deepseek_r1"}
"""Text of a chat template to the reasoning of its model; qwen3 for others that know thoughts."""


def enforced_form(form: type[CallForm] | None) -> type[CallForm]:
    """The form of calls that a grammar enforces of a model that writes `form`."""
    return Hermes if form is None or form.text is None else form


def form_for(template: str) -> str | None:
    """The first form of which the text of `template` shows a trait; None: the model seems to call no tools."""
    return next((name for name, form in CALL_FORMS.items() if any(trait in template for trait in form.traits)), None)


def reasoning_for(template: str) -> str | None:
    """The reasoning of a model with this template; None if it seems to have none."""
    if CLOSE not in template:
        return None
    return next((name for trait, name in _REASONING_TRAITS.items() if trait in template), "qwen3")
