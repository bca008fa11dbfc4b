"""`system_fingerprint`: another one for all that can change an answer, and for nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
import tokenizers

from octavo.checkpoints.folder import ASSETS
from octavo.config.format_choice import KV_CACHE_DTYPES, FormatChoice
from octavo.server.context import fingerprint
from octavo.startup import read_facts
from octavo.text import ChatTemplate, DefaultSampling
from octavo.text.tokenizer import FileTokenizer, NoTokenizer
from octavo.version import __version__
from server.harness import MODEL, TEMPLATE, byte_tokenizer, mock_context


def seen(changes: dict[str, Any] | None = None, ready: dict[str, Any] | None = None, **options: Any) -> str:
    """The fingerprint of a server made with `options`, then changed in the fields of its context and its worker."""
    context, _ = mock_context(**options)
    worker = msgspec.structs.replace(context.worker_ready, **(ready or {}))
    return fingerprint(dataclasses.replace(context, worker_ready=worker, **(changes or {})))


def other_tokenizer() -> FileTokenizer:
    backend = tokenizers.Tokenizer.from_str(byte_tokenizer()._backend.to_str())
    backend.add_special_tokens(["<|more|>"])
    return FileTokenizer(backend, {})


def with_arguments(**kwargs: Any) -> dict[str, Any]:
    return {"chat_template": ChatTemplate(TEMPLATE, special_tokens={}, default_kwargs=kwargs)}


CHANGES: dict[str, dict[str, Any]] = {
    "other weights": {"ready": {"weights_checksum": 1}},
    "another device": {"ready": {"device": "NVIDIA H100"}},
    "another format": {"ready": {"weights_format": "other"}},
    "another config.json": {"changes": {"model": dataclasses.replace(MODEL, identity={"rope_theta": 2e4})}},
    "another template": {"template": TEMPLATE + "!"},
    "no template": {"template": None},
    "template arguments": {"changes": with_arguments(shout=True)},
    "other template arguments": {"changes": with_arguments(shout=False)},
    "special tokens of the template": {"changes": {"chat_template": ChatTemplate(TEMPLATE, special_tokens={"a": "b"})}},
    "another tokenizer": {"tokenizer": other_tokenizer()},
    "no tokenizer": {"tokenizer": NoTokenizer()},
    "a default": {"defaults": DefaultSampling({"temperature": 0.5})},
    "another default": {"defaults": DefaultSampling({"temperature": 0.6})},
    "a bound of answers": {"defaults": DefaultSampling(max_tokens=7)},
    "another end of text": {"engine": {"eos_token_ids": (1,)}},
    "the seed": {"seed": 1},
}
SAME: dict[str, dict[str, Any]] = {
    "once more": {},
    "another folder": {"model": "elsewhere"},
    "another revision": {"revision": "v2"},
    "another name": {"served_model_name": ("other",)},
    "other limits": {"engine": {"max_num_batched_tokens": 64, "num_blocks": 64, "prefix_caching": False}},
    "other logs": {"max_log_len": 3},
    "another process": {"ready": {"pid": 7, "load_s": 9.0, "num_blocks": 7, "kv_cache_bytes": 7}},
    "an equal template": {"changes": {"chat_template": ChatTemplate(TEMPLATE, special_tokens={}, default_kwargs={})}},
    "an equal tokenizer": {"tokenizer": byte_tokenizer()},
}


def test_what_changes_an_answer_changes_the_fingerprint() -> None:
    made = {name: seen(**change) for name, change in CHANGES.items()}
    made["as it was"] = seen()
    assert len(set(made.values())) == len(made), made
    assert all(value.startswith(f"octavo-{__version__}-") for value in made.values())


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_answer_does_not(name: str) -> None:
    assert seen(**SAME[name]) == seen()


def test_threads_of_a_cpu_change_no_bit() -> None:
    assert seen(ready={"device": "CPU (1 threads)"}) == seen(ready={"device": "CPU (9 threads)"})


@pytest.mark.parametrize("library", ["torch", "triton"])
def test_another_library_is_another_fingerprint(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen()
    monkeypatch.setattr("octavo.server.context.metadata.version", lambda name: "0" if name == library else "1")
    between = seen()
    monkeypatch.setattr("octavo.server.context.metadata.version", lambda name: "1")
    assert len({before, between, seen()}) == 3


def test_keys_and_values_in_another_format_change_it() -> None:
    tiny = ASSETS / "octavo-tiny"
    kept = {name: seen({"model": read_facts(tiny, None, FormatChoice(name))}) for name in KV_CACHE_DTYPES}
    assert kept["auto"] == kept["bfloat16"] != kept["fp8"] == kept["fp8_e4m3"]


def test_fields_put_in_the_place_of_those_in_config_json_change_it() -> None:
    tiny = ASSETS / "octavo-tiny"
    overrides = [None, {"rope_theta": 2e4}, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}]
    made = [seen({"model": read_facts(tiny, override)}) for override in overrides]
    assert len(set(made)) == len(made)
    assert seen({"model": read_facts(tiny, {})}) == made[0]
