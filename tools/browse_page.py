"""Looks at the page of a running server through a headless Chromium, and takes its pictures.

    octavo serve --port 8000 &
    python -m tools.browse_page --url http://127.0.0.1:8000 --out docs/pictures [--key KEY]

It needs `playwright` and a Chromium, which nothing else here does; so it is no test of the suite. It chats by keyboard, kills the
worker in the middle of an answer and sees the answer go on, in the light, in the dark, and on a phone; it has octavo-tiny think
and call a tool; and it fails on any request to another host, on any error in the console, and on anything wider than the screen.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

LONG = "Spell these backwards, one after the other: " + " ".join(["octavo", "folio", "quarto", "duodecimo"] * 4)

CALCULATOR = {
    "name": "calculator",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "Such as 2 + 3"}},
        "required": ["expression"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--key", help="the server's API key")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found, unused-ignore]

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        _desktop(browser, args)
        _channels(browser, args)
        _thoughts_and_calls(browser, args)
        _phone(browser, args)
        _docs(browser, args)
        browser.close()
    print("the page did all that was asked of it")


def _open(browser: Any, args: argparse.Namespace, path: str, **options: Any) -> Any:
    """A page that fails on requests elsewhere and on errors, past the question for the key."""
    page = browser.new_context(**options).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda said: faults.append(said.text) if said.type == "error" and "401" not in said.text else None
    )
    page.on(
        "request", lambda asked: faults.append(asked.url) if not asked.url.startswith((args.url, "data:")) else None
    )
    page.faults = faults
    page.goto(f"{args.url}{path}")
    if args.key is not None:
        page.wait_for_selector("#key", state="visible")
        page.fill("#key", args.key)
        page.keyboard.press("Enter")
        stored = _until(page, "sessionStorage.getItem('octavo.key')")
        assert stored == args.key
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
    return page


def _until(page: Any, expression: str) -> Any:
    """The value of `expression` once it has one; the page's policy forbids the driver's own way to wait for it."""
    for _ in range(600):
        if value := page.evaluate(expression):
            return value
        page.wait_for_timeout(100)
    raise AssertionError(f"never came: {expression}")


def _close(page: Any) -> None:
    assert page.faults == [], page.faults
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide, "something is wider than the screen"
    page.context.close()


def _desktop(browser: Any, args: argparse.Namespace) -> None:
    page = _open(browser, args, "/", viewport={"width": 1280, "height": 800})
    page.wait_for_selector("#state[data-state=ready]")
    page.keyboard.type("What is 17 + 25?")
    page.keyboard.press("Enter")
    _until(page, "document.querySelector('.assistant')?.textContent.includes('tokens')")
    print("asked by keyboard:", page.inner_text(".assistant").replace("\n", " "))
    _until(page, "document.getElementById('step').textContent.startsWith('step')")
    page.screenshot(path=args.out / "page-chat.png")
    restarts = int(page.inner_text("#restarts"))
    page.fill("#question", LONG)
    page.focus("#question")
    page.keyboard.press("Enter")
    _until(page, "document.querySelectorAll('.assistant')[1]?.textContent.length > 8")
    page.click("#kill")
    page.wait_for_selector("#state[data-state=recovering]", timeout=20_000)
    page.screenshot(path=args.out / "page-kill.png")
    page.wait_for_selector("#state[data-state=ready]", timeout=60_000)
    _until(page, "/longest pause/.test(document.querySelectorAll('.assistant')[1].textContent)")
    assert int(page.inner_text("#restarts")) == restarts + 1
    assert "bad" not in page.inner_html(".assistant >> nth=1")
    end = re.search(r"\d+ tokens.*", page.inner_text(".assistant >> nth=1"))
    print("killed in the middle of an answer, which ended with:", end and end[0])
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=args.out / "page-dark.png")
    _close(page)


def _channels(browser: Any, args: argparse.Namespace) -> None:
    """Thoughts, code and a call, as a model would write them that has them all; markup in them stays text."""
    deltas: list[dict[str, Any]] = [
        {"reasoning": "Let me "},
        {"reasoning": "look."},
        {"content": "So:\n```py\n1 < 2\n```\n<b>x</b>"},
    ]
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": ""}}
    deltas += [{"tool_calls": [call]}, {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone": "UTC"}'}}]}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    told = ": recovering\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page = _open(browser, args, "/", viewport={"width": 1280, "height": 800})
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=told, content_type="text/event-stream"))
    page.wait_for_selector("#state[data-state=ready]")
    page.fill("#question", "What time is it?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".call")
    assert page.inner_text(".call").split() == ["calls", "clock", '{"zone":', '"UTC"}']
    assert page.inner_text(".assistant pre") == "1 < 2"
    assert "<b>x</b>" in page.inner_text(".assistant")
    page.click(".assistant summary")
    assert page.inner_text(".assistant details div") == "Let me look."
    _close(page)


def _thoughts_and_calls(browser: Any, args: argparse.Namespace) -> None:
    """A sum with thoughts, then a call of a tool, as the model itself makes them."""
    page = _open(browser, args, "/", viewport={"width": 1280, "height": 800})
    page.wait_for_selector("#state[data-state=ready]")
    page.click("#options summary")
    page.fill("#temperature", "0")
    page.select_option("#effort", "low")
    _ask(page, "What is 478 + 264?", 0)
    page.click(".assistant summary")
    assert "7+6+1=14" in page.inner_text(".assistant details div")
    print("with thoughts:", page.inner_text(".assistant").replace("\n", " "))
    page.select_option("#effort", "")
    page.fill("#tools", json.dumps([{"type": "function", "function": CALCULATOR}]))
    _ask(page, "What is 4821 times 77?", 1)
    assert page.inner_text(".call").splitlines() == ["calls calculator", '{"expression": "4821 * 77"}']
    print("with a tool:", page.inner_text(".assistant >> nth=1").replace("\n", " "))
    page.screenshot(path=args.out / "page-tools.png")
    _close(page)


def _ask(page: Any, question: str, answers: int) -> None:
    """Sends a question after so many answers, and waits for the end of the next one."""
    page.fill("#question", question)
    page.focus("#question")
    page.keyboard.press("Enter")
    _until(page, f"document.querySelectorAll('.assistant')[{answers}]?.textContent.includes(' tokens, ')")


def _phone(browser: Any, args: argparse.Namespace) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
    page = _open(browser, args, "/", color_scheme="dark", **phone)
    page.wait_for_selector("#state[data-state=ready]")
    page.fill("#question", "Count to seven.")
    page.tap("#send")
    _until(page, "document.querySelector('.assistant')?.textContent.includes('tokens')")
    page.screenshot(path=args.out / "page-phone.png", full_page=True)
    _close(page)


def _docs(browser: Any, args: argparse.Namespace) -> None:
    page = _open(browser, args, "/docs", viewport={"width": 1000, "height": 800})
    page.wait_for_selector("details")
    page.click("summary:has-text('/v1/chat/completions')")
    page.wait_for_selector("code:text-is('messages')")
    print("operations shown:", page.locator("details").count())
    _close(page)


if __name__ == "__main__":
    main()
