"""Grammars of people who mean harm: each is served, or a 400 that names its field, and the server is well meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from octavo.wire import Wire
from server.harness import Running, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHAT = "/v1/chat/completions"
SERVED, REFUSED = 200, 400


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as opened:
        yield opened


@pytest.fixture(scope="module")
def watched(server: Running) -> Iterator[list[int]]:
    """Statuses of /health, asked for again and again through all of this."""
    statuses: list[int] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while not over.wait(0.05):
                statuses.append(http.get("/health").status_code)

    thread = threading.Thread(target=watch)
    thread.start()
    yield statuses
    over.set()
    thread.join()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> str:
    rules = [f"r{number} ::= r{number + 1} r{number + 1}" for number in range(depth)]
    return "\n".join(["root ::= r0", *rules, f'r{depth} ::= "a"'])


DEEP_TEXT = '{"items":' * 100_000 + "{}" + "}" * 100_000
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/node"}, "r": {"$ref": "#/$defs/node"}},
        }
    },
}
EITHER = {SERVED, REFUSED}
ATTACKS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "a schema of 100 levels": ({"guided_json": nested(100)}, {REFUSED}),
    "a schema of 100,000 levels as text": ({"guided_json": DEEP_TEXT}, {REFUSED}),
    "a schema of 60 levels": ({"guided_json": nested(60)}, {SERVED}),
    "a recursive schema": ({"guided_json": TREE}, {SERVED}),
    "a schema that is itself": ({"guided_json": {"$ref": "#"}}, {REFUSED}),
    "a schema from the network": ({"guided_json": {"$ref": "http://169.254.169.254/x"}}, {REFUSED}),
    "a schema from a file": ({"guided_json": {"items": {"$ref": "file:///etc/passwd"}}}, {REFUSED}),
    "a schema of 2 MB": ({"guided_json": {"enum": ["x" * 2_000_000]}}, {REFUSED}),
    "9000 properties": ({"guided_json": {"properties": {f"p{n}": {"type": "string"} for n in range(9000)}}}, {REFUSED}),
    "a billion items": ({"guided_json": {"type": "array", "minItems": 10**9, "maxItems": 10**9}}, EITHER),
    "a billion characters": ({"guided_json": {"type": "string", "maxLength": 10**9}}, EITHER),
    "more items than numbers": ({"guided_json": {"type": "array", "minItems": 10**30}}, EITHER),
    "a regex that backtracks": ({"guided_regex": "(a+)+$"}, EITHER),
    "a regex that backtracks more": ({"guided_regex": "(a|aa)+" * 50 + "b"}, EITHER),
    "a regex with huge counts": ({"guided_regex": "((a{1,1000}){1,1000}){1,1000}"}, EITHER),
    "a regex of 5000 groups": ({"guided_regex": "(" * 5000 + "a" + ")" * 5000}, {REFUSED}),
    "a regex that is none": ({"guided_regex": "["}, {REFUSED}),
    "a regex that looks ahead": ({"guided_regex": "(?=a)a"}, {REFUSED}),
    "20,000 choices": ({"guided_choice": [f"choice {n}" for n in range(20_000)]}, {SERVED}),
    "300,000 choices": ({"guided_choice": [f"choice {n}" for n in range(300_000)]}, {REFUSED}),
    "a left recursion": ({"guided_grammar": 'root ::= root "a" | "a"'}, EITHER),
    "a grammar that doubles": ({"guided_grammar": doubling(60)}, EITHER),
    "an ambiguous grammar": ({"guided_grammar": 'root ::= x "b"\nx ::= x x | "a" | ""'}, EITHER),
    "an endless grammar": ({"guided_grammar": "root ::= root"}, EITHER),
    "a grammar of nothing": ({"guided_grammar": 'root ::= ""'}, {REFUSED}),
    "a grammar without a root": ({"guided_grammar": 'x ::= "a"'}, {REFUSED}),
    "a grammar of 100,000 brackets": ({"guided_grammar": "root ::= " + "(" * 100_000}, {REFUSED}),
    "a grammar with huge counts": ({"guided_grammar": 'root ::= (("a"{1,1000}){1,1000}){1,1000}'}, EITHER),
    "a grammar of 2 MB": ({"guided_grammar": 'root ::= "' + "a" * 2_000_000 + '"'}, {REFUSED}),
    "a Lark grammar with an import": ({"guided_grammar": '%import "/etc/passwd" (x)\nstart: x'}, {REFUSED}),
    "a NUL": ({"guided_choice": ["a\0b"]}, EITHER),
    "astral characters": ({"guided_choice": ["🦀🦊", "𝄞"]}, {SERVED}),
    "a tag of nothing": ({"structural_tag": {"type": "structural_tag"}}, {REFUSED}),
    "a tag that is no JSON": ({"structural_tag": "{"}, {REFUSED}),
    "a tag with a schema from elsewhere": (
        {"structural_tag": {"format": {"type": "json_schema", "json_schema": {"$ref": "http://x.org"}}}},
        {REFUSED},
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_served_or_refused_by_its_field(server: Running, watched: list[int], name: str) -> None:
    fields, allowed = ATTACKS[name]
    body = {"model": "mock", "prompt": "hi", "max_tokens": 4, **fields}
    answer = server.http.post(
        "/v1/completions",
        json=body,
        timeout=240,
    )
    assert answer.status_code in allowed, answer.text[:500]
    if answer.status_code == REFUSED:
        error = answer.json()["error"]
        assert error["type"] == "BadRequestError"
        assert error["param"] == next(iter(fields))
        assert len(error["message"]) < 2000
    assert set(watched) <= {200}


def test_the_server_was_well_and_serves_the_next(server: Running, watched: list[int]) -> None:
    body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "guided_choice": ["yes", "no"]}
    assert server.http.post(CHAT, json=body).json()["choices"][0]["message"]["content"] in ("yes", "no")
    seen = len(watched)
    while len(watched) == seen:
        threading.Event().wait(0.05)
    assert set(watched) == {200}


def test_a_grammar_that_hangs_is_refused_while_another_is_served(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes that are to compile it are stopped before they are told, which is as good as any hang."""
    fork_server, stopped = server.context.compiler._fork_server, queue.Queue[psutil.Process]()
    fork, hanging = fork_server.fork, threading.Event()
    hanging.set()

    def fork_one_that_stops() -> Wire:
        before = children(server)
        wire = fork()
        if hanging.is_set():
            assert wire.wait(None), "it says first of all that it is there"
            (child,) = children(server) - before
            child.suspend()
            stopped.put(child)
        return wire

    def attack() -> int:
        asked = {**body, "guided_regex": "[uvw]{3}"}
        return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=240).status_code

    monkeypatch.setattr(fork_server, "fork", fork_one_that_stops)
    body: dict[str, Any] = {"model": "mock", "prompt": "hi", "max_tokens": 4}
    with ThreadPoolExecutor() as pool:
        attacked = pool.submit(attack)
        first = stopped.get(timeout=240)
        hanging.clear()
        quick = server.http.post("/v1/completions", json={**body, "guided_regex": "[xyz]{2}"}, timeout=240)
        assert quick.status_code == SERVED
        assert not attacked.done()
        hanging.set()
        first.kill()
        stopped.get(timeout=240).kill()
        assert attacked.result() == REFUSED


def children(server: Running) -> set[psutil.Process]:
    """Of the process that forks for grammars."""
    pid = server.context.compiler._fork_server.pid
    return set() if pid is None else set(psutil.Process(pid).children())
