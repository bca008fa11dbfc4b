"""What a wrong message is answered with, in the shape of Anthropic's errors; and that no field is ignored silently."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import BetaContentBlockParam
from anthropic.types.beta import message_create_params as beta_params

from octavo.server.body import MAX_BODY_BYTES
from octavo.server.messages import blocks
from octavo.server.messages.failures import PATH
from octavo.server.messages.request import MessagesRequest
from octavo.server.messages.unserved import REFUSED
from server.agent import talking
from server.harness import Running, running
from server.test_messages import QUESTION, TOOL, events_of
from waits import wait_until

COUNT = f"{PATH}/count_tokens"
CALL = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}


@pytest.fixture(scope="module")
def agent() -> Iterator[Running]:
    with talking("Hello.") as server:
        yield server


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def turns(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def text(**more: Any) -> dict[str, Any]:
    return {"type": "text", "text": "x", **more}


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "f", "input_schema": {"type": "object"}, **more}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages as a text": ({"messages": "x"}, "messages"),
    "a message as a text": ({"messages": ["x"]}, "messages.0"),
    "no role": ({"messages": [{"content": "x"}]}, "messages.0.role"),
    "a role of its own": (turns(("tool", "x")), "messages.0.role"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "content of the wrong type": (turns(("user", 5)), "messages.0.content: must be a text or a list of blocks"),
    "a message with more": ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages.0.name"),
    "a block without a type": (user({"text": "x"}), "messages.0.content.0"),
    "an unknown block": (user({"type": "odd"}), "messages.0.content.0"),
    "a block with more": (user(text(odd=1)), "messages.0.content.0.text.odd"),
    "a text without text": (user({"type": "text"}), "messages.0.content.0.text.text"),
    "an image": (user(text(), IMAGE), "messages.0.content.1: blocks of type image"),
    "a document": (user(DOCUMENT), "messages.0.content.0: blocks of type document"),
    "citations": (user(text(citations=[{"type": "char_location"}])), "messages.0.content.0.text.citations"),
    "an odd cache_control": (
        user(text(cache_control={"type": "forever"})),
        "messages.0.content.0.text.cache_control.type",
    ),
    "a call of a user": (user(CALL), "messages.0.content.0: a tool_use block can only be in assistant"),
    "thoughts of a user": (user({"type": "thinking", "thinking": "x"}), "messages.0.content.0: a thinking block"),
    "a result of an assistant": (
        turns(("user", "x"), ("assistant", [CALL, RESULT])),
        "messages.1.content.1: a tool_result block",
    ),
    "a call in a system": (turns(("system", [CALL])), "messages.0.content.0: a tool_use block"),
    "a result of no call": (user(RESULT), "messages.0.content.0.tool_use_id"),
    "two calls of one id": (turns(("user", "x"), ("assistant", [CALL, CALL])), "messages.1.content.1.id"),
    "a call without its result": (
        turns(("user", "x"), ("assistant", [CALL])),
        "messages.1.content: a tool_use without",
    ),
    "input as a text": (turns(("assistant", [{**CALL, "input": "{}"}])), "messages.0.content.0.tool_use.input"),
    "a call without a name": (turns(("assistant", [{**CALL, "name": ""}])), "messages.0.content.0.tool_use.name"),
    "a call by a program": (
        turns(("assistant", [{**CALL, "caller": {"type": "code_execution_20260120", "tool_id": "x"}}])),
        "tool_use.caller",
    ),
    "a call of a toolset": (turns(("assistant", [{**CALL, "toolset_name": "browser"}])), "tool_use.toolset_name"),
    "an image as a result": (
        turns(("user", "x"), ("assistant", [CALL]), ("user", [{**RESULT, "content": [IMAGE]}])),
        "messages.2.content.0.tool_result.content.0: blocks of type image",
    ),
    "is_error in words": (user({**RESULT, "is_error": "perhaps"}), "messages.0.content.0.tool_result.is_error"),
    "a server's call": (turns(("assistant", [{**CALL, "type": "server_tool_use"}])), "blocks of type server_tool_use"),
    "system as a number": ({"system": 5}, "system"),
    "an image in the system": ({"system": [IMAGE]}, "system.0: blocks of type image"),
    "no max_tokens": ({"max_tokens": None}, "max_tokens"),
    "max_tokens negative": ({"max_tokens": -1}, "max_tokens"),
    "max_tokens in words": ({"max_tokens": "many"}, "max_tokens"),
    "temperature negative": ({"temperature": -1}, "temperature"),
    "temperature in words": ({"temperature": "hot"}, "temperature"),
    "top_p 0": ({"top_p": 0}, "top_p"),
    "top_k -2": ({"top_k": -2}, "top_k"),
    "an empty stop sequence": ({"stop_sequences": [""]}, "stop_sequences"),
    "stop_sequences as a text": ({"stop_sequences": "x"}, "stop_sequences"),
    "stream in words": ({"stream": "perhaps"}, "stream"),
    "metadata with more": ({"metadata": {"user": "x"}}, "metadata.user"),
    "another service_tier": ({"service_tier": "priority"}, "service_tier"),
    "tools that are no list": ({"tools": TOOL}, "tools"),
    "a tool without a schema": ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
    "a tool with a wrong schema": ({"tools": [tool(input_schema={"type": "text"})]}, "tools.0.input_schema.type"),
    "a tool with a bad name": ({"tools": [tool(name="a b")]}, "tools.0.name"),
    "a tool twice": ({"tools": [tool(), tool()]}, "tools.1.name"),
    "a tool with more": ({"tools": [tool(odd=1)]}, "tools.0.odd"),
    "a deferred tool": ({"tools": [tool(defer_loading=True)]}, "tools.0.defer_loading"),
    "a tool for programs": ({"tools": [tool(allowed_callers=["code_execution_20260120"])]}, "tools.0.allowed_callers"),
    "a search of the web": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools.0: tools of type web_search",
    ),
    "a shell": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0: tools of type bash_20250124"),
    "tool_choice as a text": ({"tool_choice": "any"}, "tool_choice"),
    "tool_choice of an odd type": ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    "any tool of none": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "a tool that is not there": ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    "a tool without its name": ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    "auto with a name": ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "f"}}, "tool_choice.name"),
    "a schema that cannot be held to": (
        {"tools": [tool(input_schema={"type": "object", "not": {}})], "tool_choice": {"type": "any"}},
        "tools",
    ),
    "thinking as a flag": ({"thinking": True}, "thinking"),
    "thinking of an odd type": ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    "thinking without a budget": ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    "a budget of none": ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    "a budget over max_tokens": ({"thinking": {"type": "enabled", "budget_tokens": 50}}, "thinking.budget_tokens"),
    "a budget without thinking": ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    "an odd display": ({"thinking": {"type": "adaptive", "display": "bold"}}, "thinking.display"),
    "an effort of no template": ({"output_config": {"effort": "low"}}, "output_config.effort"),
    "an odd effort": ({"output_config": {"effort": "none"}}, "output_config.effort"),
    "a form without a schema": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    "a form that cannot be held to": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
        "output_config.format",
    ),
    "edits of the context": (
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        "context_management",
    ),
    "a container": ({"container": "x"}, "container"),
    "another server's tools": ({"mcp_servers": [{"type": "url", "url": "x", "name": "x"}]}, "mcp_servers"),
    "a thread": ({"thread": {"type": "create"}}, "thread cannot"),
    "haste": ({"speed": "fast"}, "speed"),
    "a field of chat": ({"seed": 5}, "seed"),
    "another field of chat": ({"n": 2}, "n cannot"),
    "a field of other servers": ({"max_new_tokens": 5}, "max_new_tokens"),
    "a prompt beyond the limit": (turns(("user", "x" * 5000)), "prompt is too long: 5038 tokens > 4095 maximum"),
    "a prompt beyond all bounds": (turns(("user", "x" * 10**6)), "tokens > 4095 maximum"),
}
NOT_OF_A_COUNT = {
    "no max_tokens", "max_tokens negative", "temperature negative", "top_p 0", "top_k -2", "an empty stop sequence",
    "a tool with a wrong schema", "a tool with a bad name", "a tool twice", "any tool of none", "a tool that is not there",
    "a schema that cannot be held to", "a form that cannot be held to", "a prompt beyond the limit",
}  # fmt: skip
"""What concerns the answer alone."""


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_message(agent: Running, name: str) -> None:
    fields, says = CASES[name]
    body = {"model": "mock", "max_tokens": 50, "messages": [QUESTION], **fields}
    for path in [PATH] if name in NOT_OF_A_COUNT else [PATH, COUNT]:
        check_error(agent.http.post(path, json=body), 400, "invalid_request_error", says)


def check_error(answer: Any, status: int, kind: str, says: str) -> None:
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"type", "error", "request_id"}
    assert (told["type"], told["error"]["type"]) == ("error", kind), told
    assert says in told["error"]["message"], told
    assert "messages[" not in told["error"]["message"]
    assert told["request_id"] == answer.headers["request-id"]


def test_null_is_not_set(agent: Running) -> None:
    optional = [name for name in MessagesRequest.model_fields if name not in ("messages", "max_tokens")]
    body = {"max_tokens": 5, "messages": [QUESTION], **dict.fromkeys(optional)}
    assert agent.http.post(PATH, json=body).status_code == 200


def test_every_field_of_the_client_is_known() -> None:
    """Each is honoured, or refused by name; what the client sends as headers is no field."""
    fields: set[str] = set()
    for params in (
        message_create_params.MessageCreateParamsBase,
        message_count_tokens_params.MessageCountTokensParams,
        beta_params.MessageCreateParamsBase,
    ):
        fields |= set(params.__annotations__)
    headers = {"betas", "workspace_id", "user_profile_id", "message"}
    assert fields - headers - set(MessagesRequest.model_fields) - set(REFUSED) == set()
    assert len(fields) > 15


def test_every_block_of_the_client_is_known() -> None:
    served = {"text", "tool_use", "tool_result", "thinking", "redacted_thinking"}
    kinds = kinds_of(anthropic.types.ContentBlockParam) | kinds_of(BetaContentBlockParam)
    assert kinds - served - set(blocks.REFUSED) == set()
    assert served <= kinds


def kinds_of(block: Any) -> set[str]:
    """The types that a block, or a union of blocks, may have."""
    if not isinstance(block, type):
        return {kind for part in typing.get_args(block) for kind in kinds_of(part)}
    if issubclass(block, pydantic.BaseModel):
        return set(typing.get_args(block.model_fields["type"].annotation))
    return set(typing.get_args(typing.get_type_hints(block)["type"]))


@pytest.mark.parametrize(
    ("status", "kind", "says", "request_"),
    [
        (404, "not_found_error", "model", {"json": {"model": "claude", "max_tokens": 1, "messages": [QUESTION]}}),
        (400, "invalid_request_error", "not JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (400, "invalid_request_error", "Content-Type", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (
            400,
            "invalid_request_error",
            "anthropic-version",
            {"json": {}, "headers": {"anthropic-version": "2020-01-01"}},
        ),
        (400, "invalid_request_error", "X-Request-Id", {"json": {}, "headers": {"X-Request-Id": "a b"}}),
        (
            413,
            "request_too_large",
            "bytes",
            {"content": b"x" * (MAX_BODY_BYTES + 1), "headers": {"Content-Type": "application/json"}},
        ),
    ],
    ids=["model", "JSON", "type", "version", "id", "size"],
)
def test_other_errors(agent: Running, status: int, kind: str, says: str, request_: dict[str, Any]) -> None:
    for path in (PATH, COUNT):
        check_error(agent.http.post(path, **request_), status, kind, says)


def test_paths_and_methods(agent: Running) -> None:
    check_error(agent.http.get(PATH), 405, "invalid_request_error", "GET")
    check_error(agent.http.post(f"{PATH}/batches", json={}), 404, "not_found_error", "batches")
    assert "param" in agent.http.post("/v1/messagesx", json={}).json()["error"]


def test_keys() -> None:
    with running(api_key=("secret", "other")) as server:
        body = {"max_tokens": 1, "messages": [QUESTION]}
        for headers in ({}, {"x-api-key": "wrong"}, {"Authorization": "secret"}, {"x-api-key": ""}):
            check_error(server.http.post(PATH, json=body, headers=headers), 401, "authentication_error", "x-api-key")
        right = [{"x-api-key": "secret"}, {"Authorization": "Bearer other"}]
        for headers in (*right, {"x-api-key": "other", "Authorization": "Bearer wrong"}):
            assert server.http.post(PATH, json=body, headers=headers).status_code == 200
        assert server.http.get("/v1/models", headers={"x-api-key": "secret"}).status_code == 200
        for client in (
            anthropic.Anthropic(base_url=server.url, api_key="secret"),
            anthropic.Anthropic(base_url=server.url, auth_token="other"),
        ):
            with client:
                client.messages.create(model="mock", max_tokens=1, messages=[{"role": "user", "content": "x"}])


def test_a_full_queue_and_a_server_that_drains() -> None:
    worker = {"says": lambda _: [97] * 400}
    with running(worker=worker, engine={"max_num_seqs": 1, "max_num_queued_reqs": 1}) as server:
        server.hold(1)
        body = {"max_tokens": 400, "messages": [QUESTION], "stream": True}
        with server.http.stream("POST", PATH, json=body):
            wait_until(lambda: server.context.loop.status().running == 1)
            with server.http.stream("POST", PATH, json=body):
                wait_until(lambda: server.context.loop.status().waiting == 1)
                refused = server.http.post(PATH, json=body)
                check_error(refused, 529, "overloaded_error", "full")
                assert int(refused.headers["retry-after"]) >= 1
                with (
                    anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as client,
                    pytest.raises(anthropic.APIStatusError) as told,
                ):
                    client.messages.create(model="mock", max_tokens=1, messages=[{"role": "user", "content": "x"}])
                assert told.value.status_code == 529
        server.server.draining = True
        check_error(server.http.post(PATH, json=body), 529, "overloaded_error", "shutting down")
        server.release()
        server.wait_idle()


def test_a_request_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(worker={"bad_tokens": [1]}, template="\x01{{ messages[0].content }}") as server:
        body: dict[str, Any] = {"max_tokens": 5, "messages": [QUESTION]}
        check_error(server.http.post(PATH, json=body), 500, "api_error", "")
        (event,) = events_of(server.http.post(PATH, json={**body, "stream": True}))
        assert (event["type"], event["error"]["type"]) == ("error", "api_error")
        with (
            anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as client,
            pytest.raises(anthropic.APIStatusError),
            client.messages.stream(model="mock", **body) as stream,
        ):
            stream.get_final_message()

        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("/home/somebody/secret.py")

        monkeypatch.setattr("octavo.server.generation_route.Generation", fail)
        unforeseen = server.http.post(PATH, json=body)
        check_error(unforeseen, 500, "api_error", "internal error")
        assert "somebody" not in unforeseen.text
        server.wait_idle()


def test_what_a_template_refuses_is_told_by_its_place() -> None:
    shown = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with talking("x", template=shown) as server:
        for fields, says in (
            ({"system": "x"}, "system: "),
            (turns(("user", "x"), ("assistant", [CALL]), ("user", [RESULT])), "messages.1: "),
            ({"tools": [TOOL]}, "tools"),
        ):
            body = {"max_tokens": 5, "messages": [QUESTION], **fields}
            check_error(server.http.post(PATH, json=body), 400, "invalid_request_error", says)


def test_an_unknown_field_is_named_in_the_log(agent: Running, caplog: pytest.LogCaptureFixture) -> None:
    body = {"max_tokens": 1, "messages": [QUESTION], "temprature": 0}
    assert agent.http.post(PATH, json=body).status_code == 200
    assert any("'temprature'" in record.getMessage() for record in caplog.records)


def test_large_bodies_are_read_as_small_ones(agent: Running) -> None:
    """On the event loop, in a thread, and in either process."""
    small = {"max_tokens": 5, "messages": [QUESTION], "tools": [TOOL]}
    expected = agent.http.post(PATH, json=small).json()["content"]
    for size in (2 << 10, 64 << 10, 256 << 10, 5 << 20):
        large = {**small, "padding": "x" * size}
        assert agent.http.post(PATH, json=large).json()["content"] == expected
        counted = agent.http.post(COUNT, json=large).json()["input_tokens"]
        assert counted == agent.http.post(COUNT, json=small).json()["input_tokens"]
        wrong = agent.http.post(
            PATH, content=json.dumps({**large, "top_p": 9}), headers={"Content-Type": "application/json"}
        )
        check_error(wrong, 400, "invalid_request_error", "top_p")
