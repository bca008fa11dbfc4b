"""The pages: nothing in them comes from elsewhere, the browser is held to that, and what they ask for is there."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from typing import Any

import pytest

from server.harness import Running, running

PAGES = ["/", "/docs"]


class Parts(html.parser.HTMLParser):
    """Collects the elements of a page, and the ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_loaded_from_elsewhere(server: Running, path: str) -> None:
    text = server.http.get(path).text
    assert "//" not in re.sub(r"://|/\*.*?\*/", "", text).replace("http:", "")
    parts = Parts(text)
    links = [value for _, attributes in parts.elements for name in ("src", "href") if (value := attributes.get(name))]
    assert set(links) <= {"data:,", "docs"}
    assert not any({"style", "onclick"} & attributes.keys() for _, attributes in parts.elements), (
        "the policy forbids them"
    )


@pytest.mark.parametrize("path", PAGES)
def test_the_browser_runs_what_is_written_there_and_nothing_else(server: Running, path: str) -> None:
    answer = server.http.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize("path", PAGES)
def test_what_the_script_asks_for_is_in_the_page(server: Running, path: str) -> None:
    text = server.http.get(path).text
    ids = Parts(text).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)|canvasOf\("([\w-]+)"\)', text)) <= {
        pair for id_ in ids for pair in ((id_, ""), ("", id_))
    }
    labelled = [attributes for tag, attributes in Parts(text).elements if tag in ("input", "select", "textarea")]
    for attributes in labelled:
        assert (
            "aria-label" in attributes
            or re.search(rf"<label[^>]*>[^<]*<\w+ id=\"{attributes['id']}\"", text)
            or (f'for="{attributes["id"]}"' in text)
        ), f"{attributes['id']} has no label"


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_the_printed_address_leads_to_the_page(server: Running, path: str) -> None:
    """By a relative address, which holds behind a proxy that serves Octavo under a path of its own."""
    answer = server.http.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, "./" if path == "/v1" else "../")
    assert server.http.get(path, follow_redirects=True).text == server.http.get("/").text


def test_the_engine_live(server: Running) -> None:
    def live(since: int = 0) -> Any:
        return server.http.get("/live", params={"since": since}).json()

    before = live()
    ids = list(b"a prompt of several blocks, no doubt")
    server.http.post("/v1/completions", json={"prompt": ids, "max_tokens": 5, "ignore_eos": True})
    server.wait_idle()
    now = live(before["steps"][-1][0] if before["steps"] else 0)
    assert sum(prefill for _, prefill, _, _ in now["steps"]) in (len(ids), len(ids) % 16)
    assert sum(decode for _, _, decode, _ in now["steps"]) == 4
    assert now["tokens"]["generation"] == before["tokens"]["generation"] + 5
    assert now["worker"]["state"] == "ready"
    assert now["blocks"]["total"] == server.context.engine_config.num_blocks
    assert (now["blocks"]["in_use"], now["blocks"]["cached"] > 0) == (0, True)
    assert now["time_s"] > before["time_s"]
    assert live(now["steps"][-1][0])["steps"] == []


@pytest.mark.parametrize("since", ["soon", "-1", "1.5", "9" * 5000, ""])
def test_a_step_that_is_none(server: Running, since: str) -> None:
    answer = server.http.get("/live", params={"since": since})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "since")


def test_pages_need_no_key_but_what_they_ask_for_does() -> None:
    with running(api_key=("secret",)) as server:
        for path in PAGES:
            assert server.http.get(path).status_code == 200
        for path in ("/live", "/openapi.json", "/v1/models"):
            assert server.http.get(path).status_code == 401
            assert server.http.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert server.http.post("/kill_worker").status_code == 401


def test_a_worker_is_killed_only_where_that_is_meant() -> None:
    with running(model="someone/else") as server:
        assert server.http.get("/live").json()["may_kill"] is False
        assert server.http.post("/kill_worker").status_code == 404
    with running(model="someone/else", inject_fault=("kill@step:1000000",)) as server:
        assert server.http.get("/live").json()["may_kill"] is True
        answer = server.http.post("/kill_worker", headers={"Sec-Fetch-Site": "cross-site"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Sec-Fetch-Site")
        answer = server.http.post("/kill_worker")
        assert (answer.status_code, answer.json()) == (409, {"killed": None}), "the mock worker is this process"


def test_without_docs_there_is_no_page_of_them() -> None:
    with running(disable_fastapi_docs=True) as server:
        assert server.http.get("/docs").status_code == 404
        assert server.http.get("/").status_code == 200
