"""OpenAI's responses with the real openai client: items, tools, thoughts, forms, and their scores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from octavo.grammar import Vocabulary
from server.agent import CALL, WEATHER, talking
from server.harness import ENGINE, Running, SharedForkServer, byte_tokenizer
from server.response_client import PATH, QUESTION, THOUGHTS, TOOL, both, client_of, prompts, says


@pytest.fixture(scope="module")
def agent() -> Iterator[Running]:
    with talking(says) as server:
        yield server


@pytest.fixture
def client(agent: Running) -> Iterator[openai.OpenAI]:
    with client_of(agent) as client:
        yield client


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
