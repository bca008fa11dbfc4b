"""The embedded models under a grammar: the same bits in company, in pieces, and after its worker was killed; streams, seeds and scores."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from safetensors.torch import load_file, save_file

from grammar.tiny_server import TinyServer, tiny_server
from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.checkpoints.folder import ASSETS
from octavo.startup import in_this_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("warm")]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
}
SMALL: dict[str, Any] = {
    "cpu_threads": 1,
    "max_model_len": 256,
    "max_num_batched_tokens": 512,
    "num_gpu_blocks_override": 64,
}
FORM = StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True)
FORMS = [FORM, None, StructuredOutputsParams(regex="[a-z]{4,12}"), FORM, StructuredOutputsParams(choice=["up", "down"])]
PROMPTS = ["Describe a person. " * 3, "Count: 1 2 3", "A word: ", "Who? ", "Where? "]


def samplings() -> list[SamplingParams]:
    return [
        SamplingParams(seed=number, max_tokens=90, logprobs=2, structured_outputs=form)
        for number, form in enumerate(FORMS)
    ]


Told = list[tuple[tuple[int, ...], str | None, list[Any]]]


def told(outputs: Any) -> Told:
    """Tokens, ends and scores, in which one bit counts."""
    return [(tuple(a.token_ids), a.finish_reason, a.logprobs) for output in outputs for a in output.outputs]


@pytest.fixture(scope="module", params=["octavo-tiny", "octavo-tiny-hybrid"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(model: str) -> Told:
    """Each alone."""
    with LLM(model, workers=in_this_process, device="cpu", **SMALL) as llm:
        return [
            one
            for prompt, sampling in zip(PROMPTS, samplings(), strict=True)
            for one in told(llm.generate([prompt], sampling, use_tqdm=False))
        ]


def test_answers_have_their_forms(undisturbed: Told) -> None:
    for (tokens, reason, _), form in zip(undisturbed, FORMS, strict=True):
        if form is FORM and reason == "stop":
            jsonschema_rs.validate(SCHEMA, json.loads(bytes(token for token in tokens if token < 256)))
    assert [reason for _, reason, _ in undisturbed][2:] == ["stop", "stop", "stop"]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_batched_tokens": 16, "num_gpu_blocks_override": 64},
        {"num_gpu_blocks_override": 10, "max_num_batched_tokens": 64, "max_num_seqs": 4},
    ],
    ids=["in pieces", "preempted"],
)
def test_company_changes_no_bit(model: str, undisturbed: Told, settings: dict[str, Any]) -> None:
    with LLM(model, workers=in_this_process, device="cpu", **SMALL | settings) as llm:
        outputs = llm.generate(PROMPTS, samplings(), use_tqdm=False)
        assert told(outputs) == undisturbed
        again = llm.generate(PROMPTS, samplings(), use_tqdm=False)
        assert told(again) == undisturbed
        assert any(output.num_cached_tokens for output in again), "no prefix was cached"
        assert bool(llm._engine.status().preemptions) == ("max_num_seqs" in settings)


def test_killed_workers_change_no_bit(model: str, undisturbed: Told) -> None:
    faults = ("kill@step:6", "kill@step:21")
    with LLM(
        model,
        device="cpu",
        **SMALL,
        inject_fault=faults,
        crash_dir=None,
    ) as llm:
        assert told(llm.generate(PROMPTS, samplings(), use_tqdm=False)) == undisturbed
        assert sum(llm._engine.status().restarts.values()) == len(faults)


def test_another_mask_is_seen(model: str, undisturbed: Told) -> None:
    """The twin: one property of the schema may be one shorter, and the answers are others."""
    other = json.loads(json.dumps(SCHEMA).replace('"maximum": 99', '"maximum": 0'))
    with LLM(model, workers=in_this_process, device="cpu", **SMALL) as llm:
        form = StructuredOutputsParams(json=other, disable_any_whitespace=True)
        changed = [
            each.replace(structured_outputs=form) if each.structured_outputs is FORM else each for each in samplings()
        ]
        answers = told(llm.generate(PROMPTS, changed, use_tqdm=False))
    assert answers[1:3] == undisturbed[1:3]
    assert answers != undisturbed


def test_another_weight_is_seen(model: str, undisturbed: Told, tmp_path: Path) -> None:
    """The twin: one number of the first layer's norm has the other sign."""
    shutil.copytree(ASSETS / model, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.input_layernorm.weight"][7] *= -1
    save_file(weights, tmp_path / "model.safetensors")
    with LLM(str(tmp_path), workers=in_this_process, device="cpu", **SMALL) as llm:
        assert told(llm.generate(PROMPTS, samplings(), use_tqdm=False)) != undisturbed


def test_over_http_after_a_kill(model: str) -> None:
    """A stream whose worker is killed in its middle is the one that was not disturbed."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Who?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        "max_tokens": 100,
        "seed": 4,
        "n": 2,
        "stream": True,
    }
    with tiny_server(own_process=True, model=model) as server:
        calm = streamed(server, body)
        assert streamed(server, body, kill_after=5) == calm
        assert server.http.get("/server_info").json()["worker"]["restarts"]
        for text, reason in calm.values():
            if reason == "stop":
                jsonschema_rs.validate(SCHEMA, json.loads(text))


def streamed(server: TinyServer, body: dict[str, Any], kill_after: int | None = None) -> dict[int, tuple[str, str]]:
    """Index -> text and finish reason; the worker is killed after so many chunks."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        chunks = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {"))
        for number, chunk in enumerate(map(json.loads, chunks)):
            if number == kill_after:
                os.kill(server.runtime.engines[0].status().worker_pid, signal.SIGKILL)
            for choice in chunk["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
                if choice["finish_reason"] is not None:
                    reasons[choice["index"]] = choice["finish_reason"]
    return {index: (text, reasons[index]) for index, text in texts.items()}


def test_answers_by_seed_are_those_of_n(tiny: TinyServer) -> None:
    body = {"model": "octavo-tiny", "prompt": "Say: ", "seed": 11, "guided_regex": "[a-z]{6}", "max_tokens": 20}
    together = tiny.http.post("/v1/completions", json={**body, "n": 3}).json()["choices"]
    assert together[0]["text"] == tiny.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert len({choice["text"] for choice in together}) == 3


def test_logprobs_are_of_the_raw_distribution(tiny: TinyServer) -> None:
    """An answer that the mask forces has the score that the model gives it, not 0."""
    body = {"model": "octavo-tiny", "prompt": "Say: ", "guided_choice": ["zqx"], "logprobs": 1, "max_tokens": 20}
    choice = tiny.http.post("/v1/completions", json=body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("zqx", "stop")
    assert all(score < 0 for score in choice["logprobs"]["token_logprobs"])
    plain = {"model": "octavo-tiny", "prompt": "Say: zqx", "echo": True, "logprobs": 1, "max_tokens": 0}
    scores = tiny.http.post("/v1/completions", json=plain).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert scores[-3:] == choice["logprobs"]["token_logprobs"]


def test_a_stop_string_cuts_and_max_tokens_ends(tiny: TinyServer) -> None:
    body = {"model": "octavo-tiny", "prompt": "Say: ", "guided_regex": "[ab]{30}-end", "max_tokens": 40}
    cut = tiny.http.post("/v1/completions", json={**body, "stop": "-"}).json()["choices"][0]
    assert (cut["finish_reason"], cut["stop_reason"], len(cut["text"])) == ("stop", "-", 30)
    short = tiny.http.post("/v1/completions", json={**body, "max_tokens": 7}).json()["choices"][0]
    assert (short["finish_reason"], len(short["text"])) == ("length", 7)


def test_biases_choose_among_what_is_allowed(tiny: TinyServer) -> None:
    body = {
        "model": "octavo-tiny",
        "prompt": "Say: ",
        "guided_choice": ["yes", "no"],
        "max_tokens": 9,
        "temperature": 0,
    }
    for letter in "yn":
        answer = tiny.http.post(
            "/v1/completions", json={**body, "logit_bias": {str(ord(letter)): 100, "65": 100}}
        ).json()
        assert answer["choices"][0]["text"] == {"y": "yes", "n": "no"}[letter]
