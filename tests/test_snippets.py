"""Scripts as vLLM's users have them, with another name in their import lines, say what the server says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.test_serve_command import Served

SNIPPETS = Path(__file__).parent / "snippets"
SAFETY_NET_S = 300.0

DRIVER = """
import contextlib, functools, io, json, runpy, sys
import octavo

# The same keywords, the same model: it is started once. All start sooner with a small step, and without standbys.
SMALL = {"cpu_threads": 1, "max_num_batched_tokens": 512, "max_model_len": 2100, "num_gpu_blocks_override": 1000}
octavo.LLM = functools.cache(functools.partial(octavo.LLM, **SMALL))
octavo.AsyncEngineArgs = functools.partial(octavo.AsyncEngineArgs, **SMALL, keep_weights=False)
said = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(path, run_name="__main__")
    said[path] = out.getvalue().splitlines()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What each of them prints; all of them in one process."""
    paths = sorted(map(str, SNIPPETS.glob("*.py")))
    command = [sys.executable, "-c", DRIVER, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SAFETY_NET_S)
    assert done.returncode == 0, done.stderr
    return {Path(path).stem: lines for path, lines in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    served = Served("--no-keep-weights")
    yield served
    assert served.end() == 0


def complete(server: Served, prompt: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "octavo-tiny", "prompt": prompt, "temperature": 0, "max_tokens": 16, **fields}
    status, answer = server.post("/v1/completions", body)
    assert status == 200, answer
    choices: list[dict[str, Any]] = answer["choices"]
    return choices


def test_a_list_of_prompts_and_streams(said: dict[str, list[str]], server: Served) -> None:
    prompts = ["12 + 30 =", "Sort 3 1 2:", "Hello, my name is"]
    lines = [f"Prompt: {each!r}, Generated text: {complete(server, each)[0]['text']!r}" for each in prompts]
    assert said["basic_generate"] == lines
    assert said["stream"] == lines
    assert said["token_ids"] == [str({complete(server, prompts[0])[0]["text"]})]


def test_chats(said: dict[str, list[str]]) -> None:
    assert said["chat"] == [
        "I am octavo-tiny, the small language model that comes with Octavo. stop",
        "42",
        "43",
        "44",
    ]
    assert said["template_then_generate"] == ["42 42", "17 17"]


def test_logprobs(said: dict[str, list[str]], server: Served) -> None:
    (choice,) = complete(
        server, "12 + 30 =", max_tokens=5, logprobs=3, prompt_logprobs=1, ignore_eos=True, return_token_ids=True
    )
    chosen = choice["logprobs"]["token_logprobs"]
    *tokens, total, prompt = said["logprobs"]
    assert [float(line.rsplit(maxsplit=3)[1]) for line in tokens] == [round(each, 4) for each in chosen]
    assert [line.rsplit(maxsplit=2)[1:] for line in tokens] == [["1", "3"]] * 5, "greedy: the likeliest of three"
    assert float(total) == round(sum(chosen), 4)
    ids, entries = choice["prompt_token_ids"], choice["prompt_logprobs"]
    scores = [entry[str(token)]["logprob"] for token, entry in zip(ids[1:], entries[1:], strict=True)]
    assert prompt == f"None {len(scores)} {round(sum(scores), 4)}"


def test_seeds_and_n_answers(said: dict[str, list[str]], server: Served) -> None:
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 24, "top_p": 0.95, "seed": 1}
    assert said["seeds"] == ["True True", repr(complete(server, "Once upon a time", **fields)[0]["text"])]
    fields = {"temperature": 1.0, "max_tokens": 12, "n": 4, "seed": 7}
    choices = complete(server, "Once upon a time", **fields)
    assert said["n_answers"] == [*(f"{each['index']} {each['text']!r}" for each in choices), "True True"]


def test_stop_strings_and_settings_for_each(said: dict[str, list[str]]) -> None:
    assert said["stop_strings"] == ["True stop None", "'I am ' stop octavo", "'I am octavo'"]
    assert said["settings_for_each"] == ["[1, 4, 9] ['length', 'length', 'length']", "16"]


def test_every_snippet_is_looked_at(said: dict[str, list[str]]) -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'said["{name}"]' in source for name in said)
