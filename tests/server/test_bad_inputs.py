"""What a wrong request is answered with, row by row; docs/http.md shows the same table."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from octavo.server.body import MAX_BODY_BYTES
from server.harness import Running, running
from waits import wait_until

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
DOCS = Path(__file__).parents[2] / "docs" / "http.md"


@dataclasses.dataclass(frozen=True)
class Case:
    """A request and the answer it must get."""

    name: str
    path: str
    body: Any
    status: int = 400
    param: str | None = None
    says: str = ""
    """A part of the message."""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def completion(name: str, param: str | None, says: str = "", **fields: Any) -> Case:
    return Case(name, COMPLETIONS, {"prompt": "hi", "max_tokens": 4, **fields}, param=param, says=says)


def chat(name: str, param: str | None, says: str = "", **fields: Any) -> Case:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **fields}
    return Case(name, CHAT, body, param=param, says=says)


def raw(name: str, content: bytes, says: str, param: str | None = None) -> Case:
    return Case(name, COMPLETIONS, content, param=param, says=says)


CASES = [
    # The body as a whole
    raw("no body", b"", "the body is not JSON"),
    raw("bad JSON", b'{"prompt": ', "the body is not JSON"),
    raw("bad UTF-8", b'{"prompt": "\xff\xfe"}', "the body is not JSON"),
    raw("a lone surrogate", b'{"prompt": "\\ud800"}', "hex escape"),
    raw("deep nesting", b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
    raw("not an object", b"[1, 2]", "the body: Input should be an object"),
    raw("NaN", b'{"prompt": "a", "temperature": NaN}', "temperature", "temperature"),
    raw("infinity", b'{"prompt": "a", "top_p": Infinity}', "top_p", "top_p"),
    raw("a number beyond floats", b'{"prompt": "a", "temperature": 1e999}', "temperature", "temperature"),
    raw("a number of 5000 digits", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "number out of range"),
    Case(
        "another content type",
        COMPLETIONS,
        b"prompt=hi",
        param="Content-Type",
        says="must be application/json",
        headers=(("Content-Type", "application/x-www-form-urlencoded"),),
    ),
    Case(
        "a compressed body",
        COMPLETIONS,
        gzip.compress(b'{"prompt": "hi"}'),
        param="Content-Encoding",
        says="uncompressed",
        headers=(("Content-Type", "application/json"), ("Content-Encoding", "gzip")),
    ),
    Case("too large", COMPLETIONS, b"x" * (MAX_BODY_BYTES + 1), 413, says="more than 33554432 bytes"),
    # Where it goes
    Case("unknown path", "/v1/nothing", {}, 404, says="there is no '/v1/nothing'"),
    Case("unknown method", COMPLETIONS, b"", 405, says="does not take DELETE", method="DELETE"),
    Case("embeddings", "/v1/embeddings", {"input": "x"}, 404, says="/openapi.json"),
    Case("unknown model", COMPLETIONS, {"model": "gpt-4", "prompt": "x"}, 404, "model", "served: mock, alias"),
    Case("unknown model of a chat", CHAT, {"model": "x", "messages": [{"role": "u", "content": ""}]}, 404, "model"),
    Case("unknown model by id", "/v1/models/gpt-4", b"", 404, "model", method="GET"),
    Case(
        "a request id with a space",
        COMPLETIONS,
        {"prompt": "x"},
        param="X-Request-Id",
        says="visible ASCII",
        headers=(("Content-Type", "application/json"), ("X-Request-Id", "a b")),
    ),
    completion("a request id in the body that is too long", "request_id", "128", request_id="x" * 129),
    # The prompt
    Case("no prompt", COMPLETIONS, {}, param="prompt", says="Field required"),
    completion("null prompt", "prompt", "must be a text", prompt=None),
    completion("number as prompt", "prompt", "must be a text", prompt=7),
    completion("mixed prompt", "prompt", "must be a text", prompt=["a", 1]),
    completion("booleans as ids", "prompt", "must be a text", prompt=[True, False]),
    completion("fractions as ids", "prompt", "must be a text", prompt=[1.5]),
    completion("empty prompt", "prompt", "prompt is empty", prompt=""),
    completion("no prompts", "prompt", "prompt is empty", prompt=[]),
    completion("one empty prompt of two", "prompt", "prompt is empty", prompt=[[1], []]),
    completion("1025 prompts", "prompt", "1025 prompts, at most 1024", prompt=[[1]] * 1025),
    completion("negative id", "prompt", "token id -1", prompt=[1, -1]),
    completion("first id beyond the vocabulary", "prompt", "token id 300", prompt=[299, 300]),
    completion("huge id", "prompt", "prompt must hold token ids", prompt=[10**30]),
    completion("prompt as long as the limit", "prompt", "512 tokens, but at most 511", prompt=[1] * 512),
    completion("text as long as the limit", "prompt", "512 tokens, but at most 511", prompt="x" * 512),
    completion("text beyond all bounds", "prompt", "characters", prompt="x" * 100_000),
    completion("prompt and answer over the limit by one", "max_tokens", "together 513", prompt=[1] * 510, max_tokens=3),
    # Sampling
    completion("max_tokens 0", "max_tokens", "at least 1", max_tokens=0),
    completion("max_tokens negative", "max_tokens", "at least 1", max_tokens=-5),
    completion("max_tokens huge", "max_tokens", "below 2^63", max_tokens=10**30),
    completion("max_tokens in words", "max_tokens", "integer", max_tokens="many"),
    completion("max_tokens as a list", "max_tokens", "integer", max_tokens=[1]),
    completion("max_tokens broken", "max_tokens", "integer", max_tokens=1.5),
    completion("min_tokens over max_tokens", "min_tokens", "at most max_tokens", min_tokens=5),
    completion("min_tokens negative", "min_tokens", "at least 0", min_tokens=-1),
    completion("min_tokens huge", "min_tokens", "below 2^63", min_tokens=10**30),
    completion("temperature negative", "temperature", "in 0..2", temperature=-0.1),
    completion("temperature 2.1", "temperature", "in 0..2", temperature=2.1),
    completion("temperature huge", "temperature", "number", temperature=10**400),
    completion("top_p 0", "top_p", "in (0, 1]", top_p=0),
    completion("top_p 1.1", "top_p", "in (0, 1]", top_p=1.1),
    completion("top_k -2", "top_k", "top_k", top_k=-2),
    completion("top_k huge", "top_k", "top_k", top_k=10**30),
    completion("min_p 2", "min_p", "in 0..1", min_p=2),
    completion("presence_penalty 3", "presence_penalty", "in -2..2", presence_penalty=3),
    completion("frequency_penalty -3", "frequency_penalty", "in -2..2", frequency_penalty=-3),
    completion("repetition_penalty 0", "repetition_penalty", "above 0", repetition_penalty=0),
    completion("seed beyond 64 bits", "seed", "64-bit", seed=2**63),
    completion("n 0", "n", "in 1..16384", n=0),
    completion("n huge", "n", "in 1..16384", n=10**30),
    completion("n over all prompts", "n", "20000 answers", prompt=[[1], [2]], n=10_000),
    completion("n of greedy", "n", "temperature is 0", n=2, temperature=0),
    completion("best_of", "best_of", "must equal n", best_of=2),
    completion("n below 1 beside best_of", "n", "in 1..16384", n=-1, best_of=1),
    completion("n of greedy beside best_of", "n", "temperature is 0", n=2, best_of=1, temperature=0),
    chat("n of a chat below 1 beside best_of", "n", "in 1..16384", n=-1, best_of=1),
    completion("empty stop string", "stop", "empty", stop=""),
    completion("stop of the wrong type", "stop", "stop", stop=5),
    completion("1025 stop strings", "stop", "at most 1024", stop=["x"] * 1025),
    completion("stop id beyond the vocabulary", "stop_token_ids", "token id 300", stop_token_ids=[300]),
    completion("stop id negative", "stop_token_ids", "stop_token_ids.0", stop_token_ids=[-1]),
    completion("stop id huge", "stop_token_ids", "stop_token_ids", stop_token_ids=[2**70]),
    completion("all ids stop", "min_tokens", "forbids every token", stop_token_ids=list(range(300)), min_tokens=1),
    completion("bias of an id beyond the vocabulary", "logit_bias", "token id 300", logit_bias={"300": 1}),
    completion("bias of a word", "logit_bias", "integer", logit_bias={"hello": 1}),
    completion("bias over 100", "logit_bias", "-100..100", logit_bias={"1": 101}),
    completion("bias of a huge id", "logit_bias", "logit_bias", logit_bias={"9" * 30: 1}),
    completion("logprobs over the limit", "logprobs", "at most 20", logprobs=21),
    completion("logprobs negative", "logprobs", "at least 0", logprobs=-2),
    completion("all logprobs", "logprobs", "at most", logprobs=-1),
    completion("logprobs huge", "logprobs", "logprobs", logprobs=10**30),
    completion("prompt_logprobs over the limit", "prompt_logprobs", "at most 20", prompt_logprobs=21),
    completion("prompt_logprobs in a stream", "prompt_logprobs", "streamed", prompt_logprobs=1, stream=True),
    completion(
        "stream_options without stream", "stream_options", "needs stream", stream_options={"include_usage": True}
    ),
    # The form of the answer
    completion("an unknown response_format", "response_format", "must be one of", response_format={"type": "xml"}),
    chat(
        "a response_format without its schema",
        "response_format",
        "json_schema.schema",
        response_format={"type": "json_schema", "json_schema": {"name": "x"}},
    ),
    chat(
        "a schema that cannot be held to",
        "response_format",
        "#/properties/a: uniqueItems",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"properties": {"a": {"type": "array", "uniqueItems": True}}}},
        },
    ),
    completion(
        "a schema from elsewhere", "guided_json", "#/items/$ref", guided_json={"items": {"$ref": "http://x.org/y"}}
    ),
    completion("a schema that is no JSON", "guided_json", "no JSON", guided_json="{"),
    completion("a schema with half a character", "guided_json", "surrogate", guided_json='{"title": "\\ud800"}'),
    completion("a structural tag of nothing", "structural_tag", '"format"', structural_tag={"type": "structural_tag"}),
    completion(
        "a structural tag beside nothing", "response_format", '"format"', response_format={"type": "structural_tag"}
    ),
    completion(
        "a structural tag with a broken part",
        "structural_tag",
        '"structures"',
        structural_tag={"structures": [{"begin": "<a>"}], "triggers": ["<a>"]},
    ),
    completion(
        "a structural tag with a number as trigger",
        "structural_tag",
        '"triggers"',
        structural_tag={"structures": [], "triggers": [1]},
    ),
    completion("no form", "structured_outputs", "exactly one", structured_outputs={}),
    completion("two forms", "structured_outputs", "exactly one", structured_outputs={"regex": "a", "choice": ["a"]}),
    completion("forms in two fields", "guided_regex", "one of", structured_outputs={"regex": "a"}, guided_regex="b"),
    completion("an empty regex", "guided_regex", "not empty", guided_regex=""),
    completion("a choice that is no text", "structured_outputs", "choice[1]", structured_outputs={"choice": ["a", 1]}),
    completion(
        "another backend", "guided_decoding_backend", "xgrammar", guided_regex="a", guided_decoding_backend="outlines"
    ),
    # What is not supported
    completion("suffix", "suffix", "in the middle", suffix="x"),
    completion("beam search", "use_beam_search", "not supported", use_beam_search=True),
    completion("priority", "priority", "--scheduling-policy", priority=1),
    completion("priority in words", "priority", "integer", priority="high"),
    completion("no allowed ids", "allowed_token_ids", "empty", allowed_token_ids=[]),
    completion("allowed id beyond the vocabulary", "allowed_token_ids", "token id 300", allowed_token_ids=[1, 300]),
    completion(
        "all allowed ids stop",
        "allowed_token_ids",
        "min_tokens",
        allowed_token_ids=[65],
        stop_token_ids=[65],
        min_tokens=1,
    ),
    completion("an empty bad word", "bad_words", "no tokens", bad_words=["a", ""]),
    completion("a bad word of spaces", "bad_words", "no tokens", bad_words=["  "]),
    completion("1025 bad words", "bad_words", "1024", bad_words=["x"] * 1025),
    completion("a bad word that is no text", "bad_words", "bad_words.0", bad_words=[7]),
    completion("ids to score without logprobs", "logprob_token_ids", "needs logprobs", logprob_token_ids=[1]),
    completion("no ids to score", "logprob_token_ids", "1 to 128", logprob_token_ids=[], logprobs=0),
    completion("129 ids to score", "logprob_token_ids", "128", logprob_token_ids=list(range(129)), logprobs=0),
    completion("an id to score twice", "logprob_token_ids", "each once", logprob_token_ids=[1, 1], logprobs=0),
    completion(
        "an id to score beyond the vocabulary", "logprob_token_ids", "token id 300", logprob_token_ids=[300], logprobs=0
    ),
    completion("a prompt cut to nothing", "truncate_prompt_tokens", "at least one", truncate_prompt_tokens=0),
    completion("a prompt cut to less than nothing", "truncate_prompt_tokens", "-1", truncate_prompt_tokens=-2),
    completion("a prompt cut to more than fits", "truncate_prompt_tokens", "508", truncate_prompt_tokens=509),
    completion("a side that is none", "truncation_side", "left", truncate_prompt_tokens=4, truncation_side="middle"),
    completion("an empty salt", "cache_salt", "cache_salt", cache_salt=""),
    completion("documents of a completion", "documents", "chat", documents=[{"text": "x"}]),
    chat("ids to score of a chat without logprobs", "logprob_token_ids", "logprobs", logprob_token_ids=[1]),
    chat("documents that no template shows", "documents", "template", documents=[{"text": "x"}]),
    chat("documents that are no list", "documents", "array", documents={"text": "x"}),
    chat(
        "tools of a model that calls none", "tools", "parser", tools=[{"type": "function", "function": {"name": "f"}}]
    ),
    chat("a forced call without tools", "tool_choice", "no tools", tool_choice="required"),
    chat("tools that are no list", "tools", "array", tools={"name": "f"}),
    chat("a template from the network", "chat_template", "never from a request", chat_template="{{ 1 }}"),
    # Chats
    Case("no messages", CHAT, {}, param="messages", says="Field required"),
    chat("empty messages", "messages", "at least 1", messages=[]),
    chat("messages as a text", "messages", "messages", messages="hi"),
    chat("no role", "messages", "messages.0.role", messages=[{"content": "x"}]),
    chat("no content", "messages[0].content", "missing", messages=[{"role": "user"}]),
    chat(
        "an image", "messages[0].content", "text part", messages=[{"role": "user", "content": [{"type": "image_url"}]}]
    ),
    chat(
        "a call without a function",
        "messages[0].tool_calls[0]",
        "name",
        messages=[{"role": "assistant", "tool_calls": [{"id": "1"}]}],
    ),
    chat("a role the template refuses", "messages", "no such role", messages=[{"role": "forbidden", "content": ""}]),
    chat("a reserved template argument", "chat_template_kwargs", "messages", chat_template_kwargs={"messages": []}),
    chat("continue and generation prompt", "continue_final_message", "false", continue_final_message=True),
    chat("top_logprobs without logprobs", "top_logprobs", "needs logprobs", top_logprobs=2),
    chat("a chat as long as the limit", "messages", "at most 511", messages=[{"role": "user", "content": "x" * 600}]),
    chat("max_completion_tokens huge", "max_completion_tokens", "below 2^63", max_completion_tokens=2**63),
    chat("top_logprobs over the limit", "top_logprobs", "at most 20", logprobs=True, top_logprobs=21),
    chat("max_completion_tokens 0", "max_completion_tokens", "at least 1", max_completion_tokens=0),
    chat("max_completion_tokens over the limit", "max_completion_tokens", "512", max_completion_tokens=513),
    chat("echo", "echo", "not supported on chat", echo=True),
    # Tokens
    Case("nothing to tokenize", "/tokenize", {}, param="prompt", says="Field required"),
    Case(
        "text and messages", "/tokenize", {"prompt": "x", "messages": [{"role": "u", "content": "x"}]}, param="messages"
    ),
    Case(
        "a tool that is none to tokenize",
        "/tokenize",
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}],
        },
        param="tools",
        says="properties must map names",
    ),
    Case("no tokens", "/detokenize", {}, param="tokens", says="Field required"),
    Case("a token beyond the vocabulary", "/detokenize", {"tokens": [300]}, param="tokens", says="from 0 to 299"),
    Case("a negative token", "/detokenize", {"tokens": [-1]}, param="tokens", says="id -1"),
    Case("a text as token", "/detokenize", {"tokens": ["a"]}, param="tokens", says="tokens.0"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input(server: Running, case: Case) -> None:
    answer = server.http.request(case.method, case.path, content=case.content, headers=dict(case.headers))
    assert answer.status_code == case.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (case.status, case.param), error
    assert case.says in error["message"]
    assert error["message"].endswith(f"(request id: {answer.headers['x-request-id']})")
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a\0b"},
        {"prompt": "😀" * 20},
        {"prompt": [0, 299]},
        {"prompt": [1] * 511},
        {"prompt": "x", "max_tokens": 511},
        {"prompt": "x", "stop": ["\0", "😀"]},
        {"prompt": "x", "logit_bias": {str(id_): -100 for id_ in range(300)}},
        {"prompt": "x", "stop_token_ids": list(range(300))},
        {"prompt": "x", "seed": -(2**63)},
        {"prompt": "x", "temperature": 2, "top_p": 1e-300, "min_p": 1, "top_k": 2**31 - 1},
        {"prompt": "x", "user": {"deep": [[[]]]}, "best_of": 1, "suffix": "", "priority": 0},
        {"prompt": "x", "n": 64},
    ],
    ids=[
        "null byte",
        "emoji",
        "edge ids",
        "longest prompt",
        "longest answer",
        "odd stops",
        "all biased",
        "all stop ids",
        "least seed",
        "extremes",
        "harmless values",
        "many answers",
    ],
)
def test_odd_but_right(server: Running, body: Any) -> None:
    answer = server.http.post(COMPLETIONS, json={"max_tokens": 1, **body})
    assert answer.status_code == 200, answer.text


def test_the_table_in_the_docs_is_this_one() -> None:
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \| (`[^`]*`|) *\|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {(int(status), name.strip(), param.strip("`") or None) for status, name, param in rows}
    missing = {(case.status, case.name, case.param) for case in CASES} - told
    assert not missing, "rows for docs/http.md:\n" + "\n".join(docs_row(case) for case in CASES)


def docs_row(case: Case) -> str:
    param = f"`{case.param}`" if case.param else ""
    return f"| {case.status} | {case.name} | {param} |"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer sécret"],
    ids=["none", "no key", "wrong", "other scheme", "no scheme", "not ASCII"],
)
def test_a_wrong_key(guarded: Running, header: str) -> None:
    for path in (COMPLETIONS, "/tokenize", "/nothing"):
        answer = guarded.http.post(path, json={"prompt": "x"}, headers={b"Authorization": header.encode("latin-1")})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "AuthenticationError"
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]


def test_a_right_key_and_open_probes(guarded: Running) -> None:
    for key in ("secret", "other"):
        answer = guarded.http.post("/tokenize", json={"prompt": "x"}, headers={"Authorization": f"bearer {key}"})
        assert answer.status_code == 200
    for path in ("/health", "/ready", "/readyz", "/ping", "/version", "/metrics", "/load", "/health_generate"):
        assert guarded.http.get(path).status_code == 200, path
    for path in ("/v1/models", "/server_info", "/tokenizer_info", "/openapi.json"):
        assert guarded.http.get(path).status_code == 401, path
    assert "secret" not in guarded.http.get("/server_info", headers={"Authorization": "Bearer other"}).text


@pytest.fixture(scope="module")
def guarded() -> Any:
    with running(api_key=("secret", "other")) as server:
        yield server


def test_a_full_queue() -> None:
    """While the worker is held, one runs and two wait; all others are refused."""
    with running(engine={"max_num_seqs": 1, "max_num_queued_reqs": 2}) as server:
        server.hold()
        answers: list[Any] = []

        def ask() -> None:
            body = {"prompt": [1], "max_tokens": 5, "ignore_eos": True}
            answers.append(server.http.post(COMPLETIONS, json=body))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) >= 9)
        server.release()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in refused:
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            assert answer.json()["error"]["type"] == "ServiceUnavailableError"
        server.wait_idle()
        assert f'vllm:admission_rejections_total{{engine="0",model_name="mock"}} {len(refused)}.0' in (
            server.http.get("/metrics").text
        )
        server.hold()
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.context.dispatcher.num_streams == 2)
        both = server.http.post(COMPLETIONS, json={"prompt": [[1]] * 2, "max_tokens": 5})
        assert both.status_code == 503, "all prompts of a call or none"
        server.release()
        for thread in threads:
            thread.join()
        server.wait_idle()


@pytest.mark.parametrize(
    ("path", "body", "field", "number"),
    [
        (COMPLETIONS, {"prompt": [1], "n": 3}, "n", "3 answers over all prompts, and no more than 2 may wait"),
        (COMPLETIONS, {"prompt": [[1]] * 9}, "prompt", "9 answers over all prompts, and no more than 2 may wait"),
        (COMPLETIONS, {"prompt": [1] * 30, "n": 2}, "n", "60 prompt tokens over all answers, and no more than 50 may wait"),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "n": 3}, "n", "3 answers over all prompts"),
    ],
)  # fmt: skip
def test_what_no_queue_ever_has_room_for_is_no_matter_of_trying_again(
    path: str, body: dict[str, Any], field: str, number: str
) -> None:
    """503 would have a client come back for ever; a single request of any size and as many as may wait are served."""
    with running(engine={"max_num_queued_reqs": 2, "max_num_queued_tokens": 50}) as server:
        answer = server.http.post(path, json={**body, "max_tokens": 5})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["type"]) == (field, "BadRequestError")
        assert number in error["message"]
        for taken in ({"prompt": [1], "n": 2}, {"prompt": [1] * 60}, {"prompt": [[1] * 20] * 2}):
            answer = server.http.post(COMPLETIONS, json={**taken, "max_tokens": 5})
            assert answer.status_code == 200, answer.text


def test_one_bad_request_fails_alone() -> None:
    with running(worker={"bad_tokens": [42]}) as server:
        prompts = [[1, 2], [42], [3, 4]]
        results = [
            server.http.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 3, "seed": 0}) for prompt in prompts
        ]
        assert [result.status_code for result in results] == [200, 500, 200]
        assert "not finite" in results[1].json()["error"]["message"]
        stream = server.http.post(COMPLETIONS, json={"prompt": [42], "max_tokens": 3, "stream": True})
        lines = [line for line in stream.text.splitlines() if line]
        assert stream.status_code == 200
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == 500
        assert lines[-1] == "data: [DONE]"
        server.wait_idle()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves(stream: bool) -> None:
    with running(worker={"delay_s": 0.01}) as server:
        body = json.dumps(
            {"prompt": [1] * 20, "max_tokens": 490, "stream": stream, "ignore_eos": True, "n": 2}
        ).encode()
        head = (
            f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        server.hold(5)
        with socket.create_connection(server.address) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            server.wait_held()
            if stream:
                assert connection.recv(100)
            server.release()
        server.wait_idle()
        status = server.context.loop.status()
        assert (status.finished["abort"], status.finished["length"]) == (2, 0)
        assert 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="mock"} 2.0' in (
            server.http.get("/metrics").text
        )


def test_a_client_that_leaves_before_its_body_is_sent(server: Running) -> None:
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    with socket.create_connection(server.address) as connection:
        connection.sendall(head.encode())
    assert server.http.get("/health").status_code == 200


def test_a_body_without_a_length_is_bounded_too(server: Running) -> None:
    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * (1 << 20)

    answer = server.http.post(COMPLETIONS, content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_an_unforeseen_error_is_a_500_and_a_line_in_the_log(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("/home/somebody/secret.py")

    monkeypatch.setattr(server.context.loop, "status", fail)
    answer = server.http.get("/load")
    monkeypatch.undo()
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "InternalServerError"
    assert "somebody" not in answer.text
    assert any("ZeroDivisionError" in (record.exc_text or "") for record in caplog.records)


def test_unknown_fields_are_named_once(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        body = {"prompt": [1], "max_tokens": 1, "temprature": 0, "user": "me", "top_pp": 1}
        assert server.http.post(COMPLETIONS, json=body).status_code == 200
    lines = [record.getMessage() for record in caplog.records if "unknown request fields" in record.getMessage()]
    assert lines == ["ignored unknown request fields: 'temprature, top_pp'"]
