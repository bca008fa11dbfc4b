"""OpenAI's responses with the real openai client: items, tools, thoughts, forms, and the whole object."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from octavo.grammar import Vocabulary
from server.agent import CALL, WEATHER, talking
from server.harness import ENGINE, Running, SharedForkServer, byte_tokenizer, running
from server.response_events import events_of, folded, timeless

PATH = "/v1/responses"
TOOL: Any = {"type": "function", **WEATHER["function"], "strict": True}
QUESTION = "How is the weather in Köln?"
THOUGHTS = "<think>\nI must look.\n</think>\n\n"


@contextlib.contextmanager
def client_of(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def says(prompt: str) -> str:
    """Thinks, talks and calls; then answers."""
    return (
        "<think>\nIt said so.\n</think>\n\nIt is 12 degrees."
        if "12 degrees" in prompt
        else f"{THOUGHTS}Let me see.\n{CALL}"
    )


@pytest.fixture(scope="module")
def agent() -> Iterator[Running]:
    with talking(says) as server:
        yield server


@pytest.fixture
def client(agent: Running) -> Iterator[openai.OpenAI]:
    with client_of(agent) as client:
        yield client


def prompts(server: Running) -> list[str]:
    """The prompts of the latest requests."""
    admissions = [admission for plan in server.worker.plans for admission in plan.admissions]
    return [byte_tokenizer().decode(list(each.token_ids), skip_special_tokens=False) for each in admissions]


def both(server: Running, **fields: Any) -> dict[str, Any]:
    """The response, streamed and not: the same."""
    body = {"input": QUESTION, "request_id": "turn", "seed": 1, **fields}
    answer = server.http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    streamed = server.http.post(PATH, json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    whole: dict[str, Any] = answer.json()
    Response.model_validate(whole)
    told = folded(events_of(streamed.text))
    for response in (whole, told):
        response["usage"]["input_tokens_details"]["cached_tokens"] = 0  # the second one finds the prefix of the first
    assert timeless(told) == timeless(whole)
    return whole


def test_the_default_call_of_the_client(client: openai.OpenAI) -> None:
    response = client.responses.create(model="mock", input=QUESTION)
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", "mock")
    assert response.output_text == f"Let me see.\n{CALL}"
    assert (response.error, response.incomplete_details, response.previous_response_id) == (None, None, None)
    assert response.to_dict()["store"] is False
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    again = client.responses.create(model="mock", input=QUESTION, store=True)
    assert again.to_dict()["store"] is False
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens > 0


def test_an_agent_asks_calls_and_answers(agent: Running, client: openai.OpenAI) -> None:
    talk: list[Any] = [{"role": "user", "content": QUESTION}]
    first = client.responses.create(model="mock", input=talk, tools=[TOOL], instructions="Be brief.")
    thoughts, message, call = first.output
    assert (thoughts.type, message.type, call.type) == ("reasoning", "message", "function_call")
    assert first.output_text == "Let me see."
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Köln"})
    assert call.call_id.startswith("call_")
    talk += first.output
    talk.append({"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"})
    second = client.responses.create(model="mock", input=talk, tools=[TOOL], instructions="Be brief.")
    assert second.output_text == "It is 12 degrees."
    with client.responses.stream(model="mock", input=talk, tools=[TOOL], instructions="Be brief.") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "It is 12 degrees."
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning": "I must look.",
            "tool_calls": [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": call.call_id, "content": "12 degrees"},
    ]
    mine = prompts(agent)[-1]
    chat = agent.http.post("/v1/chat/completions", json={"messages": messages, "tools": [WEATHER]})
    assert chat.status_code == 200
    assert prompts(agent)[-1] == mine, "the prompt of a response is that of the same chat"


def test_calls_have_the_ids_of_chat(agent: Running) -> None:
    body = {"tools": [WEATHER], "messages": [{"role": "user", "content": QUESTION}], "request_id": "same"}
    (choice,) = agent.http.post("/v1/chat/completions", json=body).json()["choices"]
    response = both(agent, tools=[TOOL], request_id="same")
    assert response["output"][-1]["call_id"] == choice["message"]["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        pytest.param(CALL, ["function_call"], id="a call"),
        pytest.param(f"{CALL}\n{CALL}", ["function_call", "function_call"], id="two calls"),
        pytest.param("Hello", ["message"], id="content"),
        pytest.param("", ["message"], id="nothing"),
        pytest.param("<think>Hm", ["reasoning"], id="thoughts alone"),
        pytest.param(CALL[:-40], ["message"], id="a cut call"),
        pytest.param(f"a\n{CALL}\nb", ["message", "function_call", "message"], id="content around a call"),
        pytest.param(f"{THOUGHTS}a€{CALL}", ["reasoning", "message", "function_call"], id="all of it"),
    ],
)
def test_a_stream_says_what_the_whole_says(text: str, kinds: list[str]) -> None:
    fields = {"tools": [TOOL], "top_logprobs": 2, "seed": 1, "include": ["reasoning.encrypted_content"]}
    told = []
    for interval in (1, 7, 1000):
        with talking(text, stream_interval=interval) as server:
            response = both(server, **fields)
            assert [item["type"] for item in response["output"]] == kinds
            assert len({item["id"] for item in response["output"]}) == len(kinds)
            told.append((response["output"], response["usage"]["output_tokens"]))
    assert told[0] == told[1] == told[2]


def test_scores_are_of_the_tokens_of_the_text(agent: Running) -> None:
    def scored(text: str, **fields: Any) -> list[list[str]]:
        with talking(text) as server:
            output = both(server, tools=[TOOL], include=["message.output_text.logprobs"], seed=1, **fields)["output"]
            parts = [item["content"][0] for item in output if item["type"] == "message"]
            for part in parts:
                assert b"".join(bytes(token["bytes"]) for token in part["logprobs"]).decode() == part["text"]
            return [[token["token"] for token in part["logprobs"]] for part in parts]

    assert scored(f"{THOUGHTS}a<b{CALL}") == [["a", "<", "b"]]
    assert scored(f"a{CALL}b c") == [["a"], ["b", " ", "c"]]
    assert scored("a€", top_logprobs=3) == [["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]]
    assert scored("") == [[]]
    answer = both(agent)["output"]
    assert answer[1]["content"][0]["logprobs"] == []


def test_thoughts_come_back_in_every_form(agent: Running) -> None:
    output = both(agent, tools=[TOOL])["output"]
    thoughts, message, call = output
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "I must look."}]
    assert thoughts["summary"] == []
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": thoughts["encrypted_content"]}
    summed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I must look."}]}
    result = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": [{"type": "input_text", "text": "12"}],
    }
    told = []
    for form in (thoughts, sealed, summed):
        talk = [{"role": "user", "content": QUESTION}, form, message, call, result]
        assert agent.http.post(PATH, json={"input": talk, "tools": [TOOL]}).status_code == 200
        told.append(prompts(agent)[-1])
    assert told[0] == told[1] == told[2]
    assert "<think>\nI must look.\n</think>\n\nLet me see.<tool_call>get_weather" in told[0]
    foreign = {**sealed, "encrypted_content": "gAAAA"}
    answer = agent.http.post(PATH, json={"input": [foreign]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[0].encrypted_content")


def test_what_was_one_answer_is_one_message(agent: Running) -> None:
    def prompt(*items: dict[str, Any], **fields: Any) -> str:
        answer = agent.http.post(PATH, json={"input": list(items), "max_output_tokens": 1, **fields})
        assert answer.status_code == 200, answer.text
        return prompts(agent)[-1].removesuffix("<|im_start|>assistant\n")

    def said(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "done"}
    shown = "<tool_call>f {}</tool_call>"
    assert prompt(said("assistant", "a"), call, said("assistant", "b"), result) == (
        f"<|im_start|>assistant\nab{shown}<|im_end|>\n<|im_start|>tool\ndone<|im_end|>\n"
    )
    assert prompt(said("assistant", "a"), said("assistant", "b")) == (
        "<|im_start|>assistant\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )
    assert prompt(call, {**call, "call_id": "d"}, result, call) == (
        f"<|im_start|>assistant\n{shown}{shown}<|im_end|>\n<|im_start|>tool\ndone<|im_end|>\n"
        f"<|im_start|>assistant\n{shown}<|im_end|>\n"
    )
    parts = [
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "b"},
    ]
    assert prompt({"type": "message", "role": "assistant", "content": parts, "id": "msg_1", "status": "completed"}) == (
        "<|im_start|>assistant\na\nb<|im_end|>\n"
    )
    assert prompt(said("developer", "x"), instructions="i") == (
        "<|im_start|>system\ni<|im_end|>\n<|im_start|>developer\nx<|im_end|>\n"
    )


@pytest.fixture(scope="module")
def saying() -> Iterator[Callable[[str], contextlib.AbstractContextManager[Running]]]:
    """Makes servers whose models say a text, all with one source of processes for grammars."""
    forks = SharedForkServer(Vocabulary(byte_tokenizer(), ENGINE.vocab_size, ENGINE.eos_token_ids))
    yield lambda text: talking(text, forks=forks)
    forks.end()


class Weather(pydantic.BaseModel):
    """What an answer of a form is read as."""

    city: str
    degrees: int


def test_parse_reads_the_form_of_an_answer(
    saying: Callable[[str], contextlib.AbstractContextManager[Running]],
) -> None:
    text = f'{THOUGHTS}{{"city": "Köln", "degrees": 12}}'
    with saying(text) as server, client_of(server) as client:
        response = client.responses.parse(model="mock", input=QUESTION, text_format=Weather)
        assert response.output_parsed == Weather(city="Köln", degrees=12)
        with client.responses.stream(model="mock", input=QUESTION, text_format=Weather) as stream:
            done = [event for event in stream if event.type == "response.output_text.done"]
            assert [event.parsed for event in done] == [Weather(city="Köln", degrees=12)]
            assert stream.get_final_response().output_parsed == response.output_parsed
        form = response.to_dict()["text"]["format"]  # type: ignore[index]
        assert (form["type"], form["name"], form["strict"]) == ("json_schema", "Weather", True)
    with saying("I would rather talk.") as server:
        for kind in (
            {"type": "json_object"},
            {"type": "json_schema", "name": "w", "schema": Weather.model_json_schema()},
        ):
            told = both(server, text={"format": kind}, max_output_tokens=600, seed=1)
            message = told["output"][-1]
            if told["status"] == "completed":
                assert isinstance(json.loads(message["content"][0]["text"]), dict)
            assert message["content"][0]["text"].lstrip().startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}], ids=["required", "named"])
def test_enforced_calls(saying: Callable[[str], contextlib.AbstractContextManager[Running]], choice: Any) -> None:
    with saying('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>') as server:
        response = both(server, tools=[TOOL], tool_choice=choice)
        assert [item["type"] for item in response["output"]] == ["function_call"]
        assert json.loads(response["output"][0]["arguments"]) == {"city": "Köln"}
        assert (response["tool_choice"], response["tools"][0]["strict"]) == (choice, True)


def test_choices_that_a_model_keeps_to_by_itself() -> None:
    with talking(f"{CALL}{CALL}") as server:
        none = both(server, tools=[TOOL], tool_choice="none")
        assert none["output"][0]["content"][0]["text"] == f"{CALL}{CALL}"
        assert none["tools"][0]["strict"] is False, "only enforced calls are held to their schema"
        assert len(both(server, tools=[TOOL])["output"]) == 2
        assert len(both(server, tools=[TOOL], parallel_tool_calls=False)["output"]) == 1


def test_a_response_that_is_cut_says_so(agent: Running, client: openai.OpenAI) -> None:
    for bound, kinds in ((12, ["reasoning"]), (len(THOUGHTS) + 3, ["reasoning", "message"])):
        response = both(agent, max_output_tokens=bound, tools=[TOOL])
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert response["completed_at"] is None
        assert [item["type"] for item in response["output"]] == kinds
        assert [item["status"] for item in response["output"]] == ["completed"] * (len(kinds) - 1) + ["incomplete"]
        assert response["usage"]["output_tokens"] == response["max_output_tokens"] == bound
    events = list(client.responses.create(model="mock", input=QUESTION, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def test_the_response_tells_the_request_again(agent: Running) -> None:
    asked = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "user": "me",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 300,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "top_logprobs": 3,
    }
    response = both(
        agent,
        **asked,
        tools=[TOOL],
        reasoning={"effort": "none", "summary": "auto"},
        text={"format": {"type": "text"}, "verbosity": "medium"},
        service_tier="flex",
        truncation="disabled",
        background=False,
        store=True,
        stream_options=None,
    )
    assert {name: response[name] for name in asked} == asked
    assert response["reasoning"] == {"effort": "none", "summary": None}
    assert (response["service_tier"], response["store"], response["truncation"]) == ("default", False, "disabled")
    assert response["tools"] == [{**TOOL, "strict": False}]


def test_effort_reaches_the_template(agent: Running) -> None:
    with talking("Hello") as server:
        assert both(server, reasoning={"effort": "none"})["output"][0]["type"] == "message"
        assert prompts(server)[-1].endswith("<think>\n\n</think>\n\n")


def test_sampling_fields_are_those_of_chat(server: Running) -> None:
    fields = {
        "temperature": 1.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
        "logit_bias": {"7": 2},
        "seed": 11,
        "stop": ["\x00\x01"],
        "stop_token_ids": [5],
        "ignore_eos": True,
        "min_tokens": 3,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "chat_template_kwargs": {"shout": True},
    }
    response = both(server, input="hi", **fields, max_output_tokens=20)
    mine = server.worker.plans[-1], [admission for plan in server.worker.plans for admission in plan.admissions][-1]
    body = {"messages": [{"role": "user", "content": "hi"}], **fields, "max_tokens": 20}
    chat = server.http.post("/v1/chat/completions", json=body).json()
    assert response["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    last = [admission for plan in server.worker.plans for admission in plan.admissions][-1]
    assert (last.sampling, last.token_ids) == (mine[1].sampling, mine[1].token_ids)


def test_nothing_is_kept(agent: Running, client: openai.OpenAI) -> None:
    response = client.responses.create(model="mock", input=QUESTION)
    for ask in (
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.cancel(response.id),
        lambda: client.responses.delete(response.id),
        lambda: client.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.type, caught.value.param) == ("NotFoundError", "response_id")
    for field in ("previous_response_id", "conversation"):
        refused = agent.http.post(PATH, json={"input": QUESTION, field: response.id}).json()["error"]
        assert (refused["code"], refused["param"]) == (400, field)
        assert "input" in refused["message"]


def test_an_error_before_the_stream_is_an_answer_and_one_within_it_an_event() -> None:
    with running(worker={"bad_tokens": [ord("!")]}) as server, client_of(server) as client:
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="mock", input="a!")
        events = list(client.responses.create(model="mock", input="a!", stream=True))
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "error",
            "response.failed",
        ]
        assert [event.sequence_number for event in events] == [0, 1, 2, 3]
        error, failed = events[2:]
        assert error.type == "error"
        assert "not finite" in error.message
        assert failed.type == "response.failed"
        assert failed.response.error is not None
        assert (failed.response.status, failed.response.error.code) == ("failed", "server_error")
        assert failed.response.id == events[0].response.id  # type: ignore[union-attr]
        server.wait_idle()


def test_silence_is_filled_with_comments_that_are_no_events() -> None:
    with running(worker={"delay_s": 0.6}, sse_keep_alive_interval=0.1) as server:
        body = {"input": "hi", "max_output_tokens": 2, "ignore_eos": True, "stream": True}
        answer = server.http.post(PATH, json=body)
        assert answer.text.count(": keep-alive\n\n") >= 3
        assert folded(events_of(answer.text))["usage"]["output_tokens"] == 2


def test_a_client_that_leaves_ends_its_response() -> None:
    with running(worker={"delay_s": 0.01}) as server:
        body = {"input": "hi", "max_output_tokens": 400, "ignore_eos": True, "stream": True}
        with server.http.stream("POST", PATH, json=body) as answer:
            assert next(answer.iter_lines()) == "event: response.created"
        server.wait_idle()
        status = server.context.loop.status()
        assert (status.finished["abort"], status.finished["length"]) == (1, 0)


def test_a_response_is_counted_and_described(agent: Running) -> None:
    both(agent)
    assert 'http_requests_total{handler="/v1/responses",method="POST",status="200"}' in agent.http.get("/metrics").text
    described = agent.http.get("/openapi.json").json()
    assert "input" in described["components"]["schemas"]["ResponseRequest"]["properties"]
    assert set(described["paths"]) >= {PATH, f"{PATH}/{{response_id}}", f"{PATH}/{{response_id}}/cancel"}
