"""What a response tells besides its items: how it ended, what was asked, what went wrong; and that none is kept."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from server.agent import talking
from server.harness import Running, running
from server.response_client import PATH, QUESTION, THOUGHTS, TOOL, both, client_of, prompts, says
from server.response_events import events_of, folded


@pytest.fixture(scope="module")
def agent() -> Iterator[Running]:
    with talking(says) as server:
        yield server


@pytest.fixture
def client(agent: Running) -> Iterator[openai.OpenAI]:
    with client_of(agent) as client:
        yield client


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
