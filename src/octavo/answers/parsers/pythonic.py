"""`[NAME(KEY=VALUE, ...), ...]` and nothing else: Llama 3.2 and 4, and others that call in Python."""

from __future__ import annotations

import ast
import re
from typing import ClassVar

from octavo.answers.parsers.call_form import Broken, Call, CallReader, CallText, Complete, Verdict
from octavo.answers.parsers.json_scanner import json_text
from octavo.answers.parsers.marks import after, skip_space
from octavo.answers.tool import ToolSet

START, END = "<|python_start|>", "<|python_end|>"
LONGEST = 1 << 17
"""Characters; Python's parser takes a multiple of them in memory."""
_PLAIN = re.compile(r"""[^"'()\[\]{}]*""")
_HEAD = re.compile(r"\[\s*([A-Za-z_][\w.]*)\s*\(")
_HEAD_BEGINS = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?")
_IN_STRING = {quote: re.compile(rf"[^{quote}\\]*") for quote in "\"'"}
_CONSTANTS = {"true": True, "false": False, "null": None}
"""Names that models write for Python's."""


class Pythonic:
    """The pythonic form. A list counts only at the beginning, or after its mark, and if it calls tools that are there."""

    marks: ClassVar[tuple[str, ...]] = (START,)
    first_marks: ClassVar[tuple[str, ...]] = ("[",)
    other_marks: ClassVar[tuple[str, ...]] = (END,)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = None
    traits: ClassVar[tuple[str, ...]] = (START, "func_name1(")

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return _Reader(tools, opened=mark == "[")


class _Reader:
    def __init__(self, tools: ToolSet, *, opened: bool) -> None:
        self._tools = tools
        self._prefix = "[" if opened else ""
        self._scanner = _BracketScanner()
        self._start: int | None = None

    def read(self, text: str, *, ended: bool) -> Verdict:
        whole = self._prefix + text
        if self._start is None:
            verdict = self._find_start(whole)
            if not verdict:
                return Broken() if ended or verdict is False else None
        self._scanner.scan(whole)
        end = self._scanner.end
        if end is None:
            return Broken() if ended or self._scanner.broken or len(whole) > LONGEST else None
        calls = _read(whole[self._start : end], self._tools) if end <= LONGEST else None
        if calls is None:
            return Broken()
        close = after(whole, end, END, ended=ended)
        return None if close is None else Complete(calls, close - len(self._prefix))

    def _find_start(self, whole: str) -> bool | None:
        """Find the bracket; False if no call of a tool begins there, None if one may."""
        start = skip_space(whole, 0)
        head = _HEAD.match(whole, start)
        if head is None:
            return None if start == len(whole) or _HEAD_BEGINS.fullmatch(whole, start) else False
        if head[1] not in self._tools:
            return False
        self._start = self._scanner.at = start
        return True


class _BracketScanner:
    """Finds the bracket that closes the one at `at`, in a text that grows; strings are passed over."""

    def __init__(self) -> None:
        self.at = 0
        self.end: int | None = None
        self.broken = False
        self._open: list[str] = []
        self._quote = ""

    def scan(self, text: str) -> None:
        while self.end is None and not self.broken and self.at < len(text):
            match = (_IN_STRING[self._quote] if self._quote else _PLAIN).match(text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at == len(text):
                return
            if self._quote and text[self.at] == "\\":
                if self.at + 1 == len(text):
                    return
                self.at += 1
            else:
                self._take(text[self.at])
            self.at += 1

    def _take(self, char: str) -> None:
        if char in "\"'":
            self._quote = "" if self._quote else char
        elif char in "([{":
            self._open.append(char)
        elif self._open.pop() + char not in ("()", "[]", "{}"):
            self.broken = True
        elif not self._open:
            self.end = self.at + 1


def _read(text: str, tools: ToolSet) -> tuple[Call, ...] | None:
    """The calls in the text of a list; None if it holds anything else."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        calls = tuple(_read_call(node) for node in tree.elts)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return calls if all(call.name in tools for call in calls) else None


def _read_call(node: ast.expr) -> Call:
    """Raises ValueError or TypeError if `node` is no call with named literals."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with named arguments")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments without a name")
        arguments[keyword.arg] = _literal(keyword.value)
    return Call(ast.unparse(node.func), json_text(arguments))


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List):
        return [_literal(inner) for inner in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys must be texts")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    return ast.literal_eval(node)
