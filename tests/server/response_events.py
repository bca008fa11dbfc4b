"""The events of a response's stream, put together again by what each of them says, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

LAST = ("response.completed", "response.incomplete", "response.failed")
TIMES = ("created_at", "completed_at")


def events_of(text: str) -> list[dict[str, Any]]:
    """What a body of server-sent events tells; the name of each is its type."""
    told = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        told.append(event)
    return told


class Fold:
    """Follows a stream by the rules of its protocol."""

    def __init__(self) -> None:
        self.response: dict[str, Any] = {}
        self.output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Raises AssertionError if the event may not come here, or does not fit those before."""
        kind = event["type"].removeprefix("response.")
        if "item_id" in event:
            assert self._open is not None
            assert (event["item_id"], event["output_index"]) == (self._open["id"], len(self.output))
        match kind.split("."):
            case ["created"]:
                self.response = event["response"]
                assert (self.response["status"], self.response["output"]) == ("in_progress", [])
            case ["in_progress"]:
                assert event["response"] == self.response
            case ["output_item", "added"]:
                assert self._open is None
                assert event["output_index"] == len(self.output)
                self._open = copy.deepcopy(event["item"])
                assert self._open is not None
                assert self._open["status"] == "in_progress"
            case ["output_item", "done"]:
                assert self._open is not None
                done = event["item"]
                assert {**done, "status": "", "encrypted_content": 0} == {
                    **self._open,
                    "status": "",
                    "encrypted_content": 0,
                }
                assert done["status"] in ("completed", "incomplete")
                self.output.append(done)
                self._open = None
            case ["content_part", "added"]:
                assert self._open is not None
                assert event["content_index"] == len(self._open["content"]) == 0
                assert event["part"]["text"] == ""
                self._open["content"].append(copy.deepcopy(event["part"]))
            case ["content_part", "done"]:
                assert event["part"] == self._part
            case [("output_text" | "reasoning_text"), "delta"]:
                assert event["delta"]
                self._part["text"] += event["delta"]
                if "logprobs" in self._part:
                    self._part["logprobs"] += event["logprobs"]
            case [("output_text" | "reasoning_text"), "done"]:
                assert event["text"] == self._part["text"]
                assert event.get("logprobs") == self._part.get("logprobs")
            case ["function_call_arguments", "delta"]:
                assert self._open is not None
                assert event["delta"]
                self._open["arguments"] += event["delta"]
            case ["function_call_arguments", "done"]:
                assert self._open is not None
                assert (event["name"], event["arguments"]) == (self._open["name"], self._open["arguments"])
            case _:
                raise AssertionError(f"an unknown event: {event}")

    @property
    def _part(self) -> dict[str, Any]:
        assert self._open is not None
        (part,) = self._open["content"]
        assert isinstance(part, dict)
        return part

    @property
    def ended(self) -> bool:
        """Every item is closed."""
        return self._open is None


def folded(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The response that a stream tells, made of its small events; it must be that of the last one."""
    events = list(events)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    *steps, last = events
    assert last["type"] in LAST
    fold = Fold()
    for event in steps:
        fold.take(event)
    assert fold.ended
    response = last["response"]
    assert isinstance(response, dict)
    assert response["output"] == fold.output
    assert f"response.{response['status']}" == last["type"]
    changing = ("status", "output", "usage", "completed_at", "incomplete_details", "error")
    for name, value in response.items():
        assert name in changing or fold.response[name] == value, name
    return response


def timeless(response: dict[str, Any]) -> dict[str, Any]:
    """Without when it was."""
    return {name: value for name, value in response.items() if name not in TIMES}
