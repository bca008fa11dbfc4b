"""Anthropic's messages, with the real anthropic client."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from octavo.config import EngineConfig
from octavo.grammar import Vocabulary
from octavo.server.messages.failures import PATH
from octavo.testing.mock_worker import MockSource, MockWorker
from server.agent import CALL, TEMPLATE, WEATHER, talking
from server.harness import ENGINE, EOS, Running, SharedForkServer, byte_tokenizer, running

TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": WEATHER["function"]["parameters"],
}
QUESTION = {"role": "user", "content": "How is the weather in Köln?"}
THINK: dict[str, Any] = {"type": "enabled", "budget_tokens": 1000}
ADAPTIVE: dict[str, Any] = {"type": "adaptive"}


Saying = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def saying() -> Iterator[Saying]:
    """Makes servers whose models say a text, all with one source of processes for grammars."""
    forks = SharedForkServer(Vocabulary(byte_tokenizer(), ENGINE.vocab_size, ENGINE.eos_token_ids))
    yield functools.partial(talking, forks=forks)
    forks.end()


@pytest.fixture(scope="module")
def echo(saying: Saying) -> Iterator[Running]:
    """A server whose model says hello."""
    with saying("Hello, world.") as server:
        yield server


@contextlib.contextmanager
def client_of(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
        yield client


def ask(server: Running, *messages: Any, **fields: Any) -> anthropic.types.Message:
    with client_of(server) as client:
        message: anthropic.types.Message = client.messages.create(**body(*messages, **fields))
        return message


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "mock", "max_tokens": 2000, "messages": [QUESTION, *messages], **fields}


def both(server: Running, *messages: Any, **fields: Any) -> anthropic.types.Message:
    """What the answer says, streamed and not: the same."""
    fields = {**fields, "extra_headers": {"X-Request-Id": "turn"}}
    whole = ask(server, *messages, **fields)
    with client_of(server) as client, client.messages.stream(**body(*messages, **fields)) as stream:
        streamed = stream.get_final_message()
    said, told = whole.to_dict(), streamed.to_dict()
    for message in (said, told):  # the second finds the prompt of the first in the cache
        usage: Any = message["usage"]
        usage["input_tokens"] += usage.pop("cache_read_input_tokens")
    told.pop("stop_details")  # which the client adds
    assert told == said
    return whole


def prompt_of(server: Running) -> str:
    """The prompt that the worker got last."""
    admissions = [admission for plan in server.worker.plans for admission in plan.admissions]
    last = admissions[-1]
    return byte_tokenizer().decode(last.token_ids[: last.num_prompt_tokens], skip_special_tokens=False)


def test_an_agent_thinks_calls_and_answers(saying: Saying) -> None:
    def says(prompt: str) -> str:
        if "12 degrees" in prompt:
            return "<think>\nIt said so.\n</think>\n\nIt is 12 degrees."
        return f"<think>\nI must look.\n</think>\n\nLet me see.\n{CALL}"

    with saying(says) as server:
        fields = {"tools": [TOOL], "thinking": THINK, "system": "Be brief."}
        first = both(server, **fields)
        thought, text, call = first.content
        assert (first.type, first.role, first.model, first.stop_reason) == ("message", "assistant", "mock", "tool_use")
        assert isinstance(thought, anthropic.types.ThinkingBlock)
        assert (thought.thinking, bool(thought.signature)) == ("I must look.", True)
        assert isinstance(text, anthropic.types.TextBlock)
        assert text.text == "Let me see."
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert (call.name, call.input, call.id[:6]) == ("get_weather", {"city": "Köln"}, "toolu_")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "12 degrees"}]}
        history = [first.to_param(), {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}]
        second = both(server, *history, **fields)
        assert [block.type for block in second.content] == ["thinking", "text"]
        assert second.stop_reason == "end_turn"
        assert (
            "<|im_start|>assistant\n<think>\nI must look.\n</think>\n\nLet me see."
            '<tool_call>get_weather {"city": "Köln"}</tool_call><|im_end|>\n'
            "<|im_start|>tool\n12 degrees<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n"
        ) in prompt_of(server)


@pytest.mark.parametrize(
    ("text", "kinds", "end"),
    [
        pytest.param(CALL, ["tool_use"], "tool_use", id="a call"),
        pytest.param(f"{CALL}\n{CALL}", ["tool_use", "tool_use"], "tool_use", id="two calls"),
        pytest.param("Hello", ["text"], "end_turn", id="text"),
        pytest.param("", [], "end_turn", id="nothing"),
        pytest.param("<think>Hm", ["thinking"], "end_turn", id="thoughts alone"),
        pytest.param(CALL[:-40], ["text"], "end_turn", id="a cut call"),
        pytest.param("<tool_call>{'no'}</tool_call>", ["text"], "end_turn", id="a broken call"),
        pytest.param(f"a\n{CALL}\nb", ["text", "tool_use", "text"], "tool_use", id="text around a call"),
        pytest.param(f"<think>x</think>a{CALL}", ["thinking", "text", "tool_use"], "tool_use", id="everything"),
    ],
)
def test_a_stream_says_what_the_whole_says(saying: Saying, text: str, kinds: list[str], end: str) -> None:
    with saying(text) as server:
        said = both(server, tools=[TOOL], thinking=ADAPTIVE)
        assert ([block.type for block in said.content], said.stop_reason) == (kinds, end)
        for interval in (7, 1000):
            with saying(text, stream_interval=interval) as slow:
                assert both(slow, tools=[TOOL], thinking=ADAPTIVE).content == said.content


def events_of(answer: Any) -> list[dict[str, Any]]:
    """Events of a stream, each with the name that its data says."""
    events = []
    for event in answer.text.split("\n\n")[:-1]:
        name, _, data = event.partition("\n")
        if name.startswith(":"):
            continue
        told = json.loads(data.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        events.append(told)
    return events


def test_the_client_runs_tools_by_itself(saying: Saying) -> None:
    """It would have the server keep the conversation, and goes on without when it hears that this one does not."""

    def says(prompt: str) -> str:
        return "It is 12 degrees." if "12 degrees" in prompt else CALL

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city

        Args:
            city: its name
        """
        return f"12 degrees in {city}"

    with saying(says) as server, client_of(server) as client:
        runner = client.beta.messages.tool_runner(**body(), tools=[get_weather])
        assert runner.until_done().content[0].to_dict()["text"] == "It is 12 degrees."
        assert "12 degrees in Köln" in prompt_of(server)


def test_the_wire(saying: Saying) -> None:
    with saying(f"<think>x</think>a{CALL}") as server:
        answer = server.http.post(PATH, json=body(tools=[TOOL], thinking=ADAPTIVE, stream=True))
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        events = events_of(answer)
        start, *blocks, delta, stop = events
        assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
        message = start["message"]
        assert message["id"] == f"msg_{answer.headers['request-id']}"
        assert (message["content"], message["stop_reason"], message["usage"]["output_tokens"]) == ([], None, 0)
        assert message["usage"]["input_tokens"] > 0
        assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
        assert delta["usage"]["output_tokens"] == len(f"<think>x</think>a{CALL}".encode()) + 1
        kinds = [(event["index"], event["type"], event.get("delta", {}).get("type")) for event in blocks]
        begin, end = ("content_block_start", None), ("content_block_stop", None)
        assert kinds == [
            (0, *begin),
            (0, "content_block_delta", "thinking_delta"),
            (0, "content_block_delta", "signature_delta"),
            (0, *end),
            (1, *begin),
            (1, "content_block_delta", "text_delta"),
            (1, *end),
            (2, *begin),
            (2, "content_block_delta", "input_json_delta"),
            (2, *end),
        ]
        assert "[DONE]" not in answer.text


def test_stop_sequences_and_lengths(echo: Running) -> None:
    said = both(echo, stop_sequences=["nothing", "wor"])
    assert [block.to_dict() for block in said.content] == [{"type": "text", "text": "Hello, "}]
    assert (said.stop_reason, said.stop_sequence) == ("stop_sequence", "wor")
    cut = both(echo, max_tokens=5)
    assert (cut.stop_reason, cut.stop_sequence, cut.usage.output_tokens) == ("max_tokens", None, 5)


def test_an_answer_takes_what_fits(saying: Saying) -> None:
    """Agents ask for more than small models have room for, always the same."""
    with saying("x" * 5000) as server:
        said = both(server, {"role": "user", "content": "y" * 3900}, max_tokens=32000, timeout=60)
        assert said.stop_reason == "model_context_window_exceeded"
        assert said.usage.input_tokens + (said.usage.cache_read_input_tokens or 0) + said.usage.output_tokens == 4096
        assert both(server, max_tokens=20).stop_reason == "max_tokens"


def test_a_prompt_can_be_cached_without_an_answer(echo: Running) -> None:
    first = both(echo, {"role": "user", "content": "x" * 100}, max_tokens=0)
    assert (first.content, first.stop_reason, first.usage.output_tokens) == ([], "max_tokens", 0)
    assert (ask(echo, {"role": "user", "content": "x" * 100}).usage.cache_read_input_tokens or 0) > 100


def test_tokens_of_the_cache_are_apart(echo: Running) -> None:
    asked = {"role": "user", "content": "abc" * 50}
    whole = ask(echo, asked).usage
    again = ask(echo, asked).usage
    assert again.cache_read_input_tokens
    assert again.input_tokens + again.cache_read_input_tokens == whole.input_tokens + (
        whole.cache_read_input_tokens or 0
    )


def test_an_answer_goes_on_with_the_last_message(echo: Running) -> None:
    said = both(echo, {"role": "assistant", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "y"}]})
    assert prompt_of(echo).endswith("<|im_start|>assistant\nHey")
    assert said.stop_reason == "end_turn"


def test_one_call_at_most_ends_the_answer(saying: Saying) -> None:
    with saying(f"a{CALL}{CALL}more") as server:
        one = both(server, tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        assert ([block.type for block in one.content], one.stop_reason) == (["text", "tool_use"], "tool_use")
        assert [block.type for block in both(server, tools=[TOOL]).content] == ["text", "tool_use", "tool_use", "text"]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "named"])
def test_calls_can_be_enforced_and_cut(saying: Saying, choice: dict[str, Any]) -> None:
    """What there is of cut arguments is read as the client reads it from a stream."""
    with saying(CALL, tool_call_parser="hermes") as server:
        fields = {"tools": [TOOL], "tool_choice": choice}
        said = both(server, **fields)
        assert (said.stop_reason, [block.type for block in said.content]) == ("tool_use", ["tool_use"])
        for length in range(1, said.usage.output_tokens, 9):
            cut = both(server, **fields, max_tokens=length)
            assert cut.stop_reason == "max_tokens"


def test_no_tools_are_called_if_none_are_to_be(saying: Saying) -> None:
    with saying(CALL) as server:
        said = both(server, tools=[TOOL], tool_choice={"type": "none"})
        assert [block.to_dict() for block in said.content] == [{"type": "text", "text": CALL}]


def test_the_form_of_an_answer(saying: Saying) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    with saying("I would rather talk.") as server:
        (block,) = ask(server, output_config={"format": {"type": "json_schema", "schema": schema}}).content
        assert isinstance(block, anthropic.types.TextBlock)
        assert json.loads(block.text)["n"] in (1, 2)


@pytest.mark.parametrize(
    ("thinking", "thinks"),
    [(None, False), ({"type": "disabled"}, False), (ADAPTIVE, True), (THINK, True)],
    ids=["left out", "disabled", "adaptive", "enabled"],
)
def test_thoughts_are_made_if_asked_for(saying: Saying, thinking: Any, thinks: bool) -> None:
    """The template closes the thoughts where there are to be none."""
    with saying(lambda prompt: "So." if prompt.endswith("</think>\n\n") else "<think>Hm</think>So.") as server:
        said = both(server, **({} if thinking is None else {"thinking": thinking}))
        assert [block.type for block in said.content] == (["thinking", "text"] if thinks else ["text"])
        details = said.usage.output_tokens_details
        assert details is not None
        assert bool(details.thinking_tokens) == thinks


def test_the_server_says_whether_to_think_by_itself(saying: Saying) -> None:
    def thoughts(**settings: Any) -> list[str]:
        with saying("<think>Hm</think>So.", **settings) as server:
            return [block.type for block in both(server).content]

    always = TEMPLATE.replace("enable_thinking", "something")
    assert thoughts() == ["text"]
    assert thoughts(template=always) == ["thinking", "text"]
    assert thoughts(default_chat_template_kwargs={"enable_thinking": True}) == ["thinking", "text"]


def test_a_model_that_always_thinks_is_made_to_end_its_thoughts(saying: Saying) -> None:
    always = TEMPLATE.replace("enable_thinking", "something") + "<think>"
    with saying("Hm, hm.</think>So.", template=always) as server:
        (block, *_) = both(server, thinking={"type": "disabled"}).content
        assert block.type == "text"
        assert both(server, thinking=ADAPTIVE).content[0].type == "thinking"


def test_the_budget_bounds_the_thoughts(saying: Saying) -> None:
    with saying("<think>" + "Hm, " * 50 + "</think>So.") as server:
        said = both(server, thinking={"type": "enabled", "budget_tokens": 20})
        details = said.usage.output_tokens_details
        assert details is not None
        assert 0 < details.thinking_tokens <= 20 + len("</think>")


def test_thoughts_can_be_left_out(saying: Saying) -> None:
    with saying("<think>Hm</think>So.") as server:
        thought, text = both(server, thinking={**ADAPTIVE, "display": "omitted"}).content
        assert isinstance(thought, anthropic.types.ThinkingBlock)
        assert (thought.thinking, bool(thought.signature), text.type) == ("", True, "text")


def test_ids_are_short_where_the_template_wants_them(saying: Saying) -> None:
    with saying('[TOOL_CALLS][{"name": "get_weather", "arguments": {}}]', tool_call_parser="mistral") as server:
        (call,) = both(server, tools=[TOOL]).content
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert len(call.id) == 9


def test_tokens_are_counted(echo: Running) -> None:
    with client_of(echo) as client:
        fields: Any = {"model": "mock", "messages": [QUESTION], "system": "Hi", "tools": [TOOL]}
        counted = client.messages.count_tokens(**fields)
        usage = client.messages.create(**fields, max_tokens=1).usage
        assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
        long: Any = [{"role": "user", "content": "x" * 9000}]
        assert client.messages.count_tokens(model="mock", messages=long).input_tokens > 9000


def test_betas_and_versions_change_nothing(echo: Running) -> None:
    with client_of(echo) as client:
        fields: Any = body(betas=["context-1m-2025-08-07", "interleaved-thinking-2025-05-14"])
        assert client.beta.messages.create(**fields).content[0].to_dict()["text"] == "Hello, world."
        assert [model.id for model in client.models.list()] == ["mock", "alias"]
    for version in ("2023-06-01", "2026-10-21"):
        answer = echo.http.post(PATH, json=body(), headers={"anthropic-version": version})
        assert answer.json()["content"] == [{"type": "text", "text": "Hello, world."}]


def test_silence_is_filled_with_pings() -> None:
    """Before the message begins, with comments: its beginning is the first event."""
    with running(worker={"delay_s": 0.6}, sse_keep_alive_interval=0.1) as server:
        asked = {"messages": [QUESTION], "max_tokens": 3, "stream": True}
        answer = server.http.post(PATH, json=asked)
        events = [event["type"] for event in events_of(answer)]
        assert events[0] == "message_start"
        assert events.count("ping") >= 3
        assert answer.text.startswith(": keep-alive\n\n")
        assert events[-1] == "message_stop"


def test_the_death_of_a_worker_is_not_seen(saying: Saying) -> None:
    """The next one goes on where it was: block by block the same answer."""
    text = f"<think>Hm, hm.</think>Let me see.{CALL}"
    tokens = byte_tokenizer().encode(text)

    def source(config: EngineConfig) -> MockSource:
        lives = iter([9, 25, 60])
        return MockSource(
            config, lambda *_: MockWorker(config, die_at_step=next(lives, None), says=lambda _: [*tokens, EOS])
        )

    asked = body(tools=[TOOL], thinking=ADAPTIVE, stream=True)
    headers = {"X-Request-Id": "one"}
    with saying(text) as server:
        undisturbed = events_of(server.http.post(PATH, json=asked, headers=headers))
    with saying(text, source=source, stream_interval=1) as server:
        disturbed = events_of(server.http.post(PATH, json=asked, headers=headers))
        assert len(server.source.workers) == 4
    assert added(disturbed) == added(undisturbed)
    assert disturbed[-2:] == undisturbed[-2:]


def added(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks of a stream, as a client of three lines adds them up."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({"block": event["content_block"], "text": ""})
        elif event["type"] == "content_block_delta":
            (_, text) = event["delta"].values()
            blocks[event["index"]]["text"] += text
    return blocks


def test_messages_are_counted_and_logged(saying: Saying, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with saying("Hello", enable_log_requests=True, enable_log_outputs=True) as server:
        both(server)
        ask(server)
        server.wait_idle()
        metrics = server.http.get("/metrics").text
        assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="mock"} 3.0' in metrics
        assert any(f'handler="{PATH}"' in line and line.endswith(" 3.0") for line in metrics.splitlines())
        lines = [record.getMessage() for record in caplog.records]
        assert sum("text 'Hello'" in line for line in lines) == 3
