"""Each form in which models write calls: what they write, what clients get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from answers.parser_harness import calls, content, events, parser
from octavo.answers.parsers import CALL_FORMS, REASONING, form_for, reasoning_for
from octavo.config.settings import REASONING_PARSERS, TOOL_CALL_PARSERS

CODER = "<tool_call>\n<function={}>\n{}</function>\n</tool_call>"
EVERYTHING: dict[str, Any] = {
    "city": 'Köln "am" </parameter> Rhein\nbei Nacht',
    "days": 3,
    "exact": True,
    "spot": {"x": [1, {"y": None}]},
    "maybe": None,
    "names": ["a", "b"],
    "ratio": 0.5,
}


def tagged(before: str, between: str, after: str, values: dict[str, Any]) -> str:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return "".join(f"{before}{key}{between}{text}{after}" for key, text in texts.items())


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        pytest.param("hermes", '<tool_call>{"name": "now"}</tool_call>', [("now", {})], id="hermes, no arguments"),
        pytest.param(
            "hermes",
            '<tool_call>\n{"arguments": {"city": "a\nb"}, "name": "weather"}',
            [("weather", {"city": "a\nb"})],
            id="hermes, a line end in a string, no closing mark",
        ),
        pytest.param(
            "hermes",
            '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"a\\"}"}</tool_call>',
            [("weather", {"city": "a"})],
            id="hermes, arguments as a text",
        ),
        pytest.param(
            "hermes",
            f"<tool_call>{json.dumps({'name': 'weather', 'arguments': EVERYTHING})}</tool_call>",
            [("weather", EVERYTHING)],
            id="hermes, everything",
        ),
        pytest.param(
            "qwen3_coder",
            CODER.format("weather", tagged("<parameter=", ">\n", "\n</parameter>\n", EVERYTHING)),
            [("weather", EVERYTHING)],
            id="qwen3_coder, everything",
        ),
        pytest.param(
            "qwen3_coder",
            f"{CODER.format('now', '')}\n<function=weather><parameter=exact>True</parameter></function>",
            [("now", {}), ("weather", {"exact": True})],
            id="qwen3_coder, without the outer mark",
        ),
        pytest.param(
            "glm45",
            "<tool_call>weather\n"
            + tagged("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", EVERYTHING)
            + "</tool_call>",
            [("weather", EVERYTHING)],
            id="glm45, everything",
        ),
        pytest.param(
            "glm47",
            "<tool_call>weather<arg_key>days</arg_key><arg_value>2</arg_value></tool_call><tool_call>now</tool_call>",
            [("weather", {"days": 2}), ("now", {})],
            id="glm47",
        ),
        pytest.param(
            "minimax_m2",
            '<minimax:tool_call>\n<invoke name="weather">\n'
            + tagged('<parameter name="', '">', "</parameter>\n", EVERYTHING)
            + '</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
            [("weather", EVERYTHING), ("now", {})],
            id="minimax_m2, two between one pair of marks",
        ),
        pytest.param(
            "mistral",
            f"[TOOL_CALLS] {json.dumps([{'name': 'weather', 'arguments': EVERYTHING}, {'name': 'now'}])}",
            [("weather", EVERYTHING), ("now", {})],
            id="mistral, an array",
        ),
        pytest.param(
            "mistral",
            '[TOOL_CALLS]weather{"city": "]"}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
            [("weather", {"city": "]"}), ("now", {})],
            id="mistral, by name",
        ),
        pytest.param(
            "llama3_json",
            f'\n{{"name": "now", "parameters": {{}}}}; {json.dumps({"name": "weather", "parameters": EVERYTHING})}',
            [("now", {}), ("weather", EVERYTHING)],
            id="llama3_json, two",
        ),
        pytest.param(
            "llama3_json",
            '<|python_tag|>{"type": "function", "name": "now", "parameters": null}',
            [("now", {})],
            id="llama3_json, with its tag",
        ),
        pytest.param(
            "pythonic",
            "[weather(" + ", ".join(f"{key}={value!r}" for key, value in EVERYTHING.items()) + "), now()]",
            [("weather", EVERYTHING), ("now", {})],
            id="pythonic, everything",
        ),
        pytest.param(
            "llama4_pythonic",
            "<|python_start|>[weather(exact=true, maybe=null, names=['a'])]<|python_end|>",
            [("weather", {"exact": True, "maybe": None, "names": ["a"]})],
            id="pythonic, with marks and JSON's constants",
        ),
    ],
)
def test_calls(form: str, text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    for parts in ([text], list(text)):
        found = events(parts, parser(form))
        assert [(name, json.loads(arguments)) for name, arguments in calls(found)] == expected
        assert content(found) == ""


@pytest.mark.parametrize(
    ("form", "text"),
    [
        pytest.param("hermes", '<tool_call>{"name": "now"</tool_call>', id="hermes, an open brace"),
        pytest.param("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "K', id="hermes, cut"),
        pytest.param("hermes", '<tool_call>{"arguments": {}}</tool_call>', id="hermes, without a name"),
        pytest.param("hermes", '<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>', id="hermes, NaN"),
        pytest.param("hermes", "<tool_call>now()</tool_call>", id="hermes, no object"),
        pytest.param("hermes", "a <tool_call> in a text </tool_call> b", id="hermes, marks alone"),
        pytest.param("hermes", "<tool_call>" + "[" * 100_000, id="hermes, deep"),
        pytest.param("hermes", '<tool_call>{"name": "now", "arguments": ' + '{"a":' * 5000, id="hermes, deep objects"),
        pytest.param("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\nK", id="qwen3_coder, cut"),
        pytest.param("qwen3_coder", "<tool_call><function=weather></tool_call>", id="qwen3_coder, without its end"),
        pytest.param("qwen3_coder", "use <function=f> here", id="qwen3_coder, in a text"),
        pytest.param("glm45", "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>K", id="glm45, cut"),
        pytest.param("glm45", "<tool_call>weather\n<arg_key>city</tool_call>", id="glm45, a key without a value"),
        pytest.param("minimax_m2", '<minimax:tool_call><invoke name="now">', id="minimax_m2, cut"),
        pytest.param("mistral", '[TOOL_CALLS][{"name": "now"}', id="mistral, cut"),
        pytest.param("mistral", '[TOOL_CALLS][{"name": "now"}, 1]', id="mistral, a number among calls"),
        pytest.param("mistral", "[TOOL_CALLS] is the mark", id="mistral, in a text"),
        pytest.param("llama3_json", '{"name": "other", "parameters": {}}', id="llama3_json, no tool of that name"),
        pytest.param("llama3_json", 'See {"name": "now", "parameters": {}}', id="llama3_json, JSON in a text"),
        pytest.param("llama3_json", '{"name": "now", ', id="llama3_json, cut"),
        pytest.param("pythonic", "[1, 2, now()]", id="pythonic, a list"),
        pytest.param("pythonic", "[other(a=1)]", id="pythonic, no tool of that name"),
        pytest.param("pythonic", "[weather('K')]", id="pythonic, without a name"),
        pytest.param("pythonic", "[weather(city=open('/etc/passwd').read())]", id="pythonic, code"),
        pytest.param("pythonic", "[weather(city='K'", id="pythonic, cut"),
        pytest.param("pythonic", "[x] done: [now()]", id="pythonic, in a text"),
    ],
)
def test_what_is_no_call_is_content_to_the_letter(form: str, text: str) -> None:
    found = events([text], parser(form))
    assert (content(found), calls(found)) == (text, [])


@pytest.mark.parametrize(
    ("form", "call"),
    [
        ("hermes", '<tool_call>{"name": "now"}</tool_call>'),
        ("qwen3_coder", "<tool_call><function=now></function></tool_call>"),
        ("glm45", "<tool_call>now</tool_call>"),
        ("minimax_m2", '<minimax:tool_call><invoke name="now"></invoke></minimax:tool_call>'),
        ("mistral", "[TOOL_CALLS]now{}"),
    ],
)
def test_a_call_behind_a_broken_one_is_a_call(form: str, call: str) -> None:
    broken = call[: len(call) // 2]
    found = events([f"Hm {broken} oh.\n{call}\n\nThere."], parser(form))
    assert calls(found) == [("now", "{}")]
    assert content(found) == f"Hm {broken} oh.\n\nThere."


def test_arguments_stay_as_the_model_wrote_them() -> None:
    written = '{"days": 1e400, "ratio": 0.10000000000000000000001, "city":"\\u00e9\\ud83d\\ude00", "x": %s}' % (
        "7" * 5000
    )
    found = events([f'<tool_call>{{"name": "weather", "arguments": {written}}}</tool_call>'], parser("hermes"))
    assert calls(found) == [("weather", written)]


def test_half_a_character_is_told_as_one_that_cannot_be_shown() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "a\\ud83d"}}</tool_call>'
    assert calls(events([text], parser("hermes"))) == [("weather", '{"city": "a\ufffd"}')]


@pytest.mark.parametrize(
    ("template", "calls", "reasoning"),
    [
        ("<tool_call> </think>", "hermes", "qwen3"),
        ("<tool_call>", "hermes", None),
        ("<tool_call> <function=", "qwen3_coder", None),
        ("<tool_call> <arg_key> </think>", "glm45", "glm45"),
        ("<minimax:tool_call> <tool_call> </think>", "minimax_m2", "minimax_m2"),
        ("[TOOL_CALLS]", "mistral", None),
        ('{"name": function name, "parameters": dictionary', "llama3_json", None),
        ("[func_name1(params_name1=params_value1)]", "pythonic", None),
        ("<｜Assistant｜><think></think>", None, "deepseek_r1"),
        ("<|im_start|>", None, None),
    ],
)
def test_the_template_shows_what_fits(template: str, calls: str | None, reasoning: str | None) -> None:
    assert (form_for(template), reasoning_for(template)) == (calls, reasoning)


def test_settings_name_every_parser() -> None:
    assert set(TOOL_CALL_PARSERS) == set(CALL_FORMS)
    assert set(REASONING_PARSERS) == set(REASONING)
