"""Times of vLLM's Gated DeltaNet are written as they come; a stand-in for vLLM, whose kernels need a GPU."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

VLLM = [
    "vllm.model_executor.layers.mamba.ops.causal_conv1d",
    *(
        f"vllm.third_party.flash_linear_attention.ops{part}"
        for part in ("", ".fused_gdn_prefill_post_conv", ".fused_recurrent", ".index")
    ),
    "vllm.v1.attention.backends.utils",
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, which measures nothing yet: each name takes as many microseconds as it has letters."""
    for name in VLLM:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    module = importlib.import_module("benchmarks.peers.vllm_delta_net")
    monkeypatch.setattr(module, "about", lambda name, package, extra: {"engine": name})
    monkeypatch.setattr(module, "calls_of", lambda name: [name])
    monkeypatch.setattr(module, "replayed", lambda calls: [float(len(calls[0]))])
    yield module
    del sys.modules[module.__name__]


def test_what_was_measured_stays_when_the_rest_fails(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(calls: Sequence[Any]) -> list[float]:
        if calls[0] in script.PROMPTS:
            raise KeyboardInterrupt
        return [1.0]

    monkeypatch.setattr(script, "replayed", replayed)
    with pytest.raises(KeyboardInterrupt):
        script.measure(tmp_path / "out", [""])
    assert json.loads((tmp_path / "out").read_text()) == {
        "engine": "vLLM",
        "us": {name: [1.0] for name in script.DECODES},
    }


def test_only_what_is_asked_for_is_measured(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.measure(tmp_path / "out", ["prefill 8192"])
    assert json.loads((tmp_path / "out").read_text())["us"] == {"prefill 8192": [12.0]}
    assert capsys.readouterr().out == "prefill 8192 12.0 us\n"
