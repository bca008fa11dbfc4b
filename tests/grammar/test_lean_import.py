"""The process that forks for grammars imports neither PyTorch nor transformers, and one that must have them still works."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import pytest

from octavo.grammar import Compiler, Follower, ForkServer, Vocabulary, process
from octavo.grammar.follower import Told
from octavo.grammar.following import Following
from octavo.grammar.messages import Compiled
from octavo.grammar.source import checked_source
from octavo.grammar.vocabularies import Vocabularies
from octavo.structured_outputs import StructuredOutputsParams
from server.harness import byte_tokenizer

FORM = StructuredOutputsParams(regex="[ab]{2}")
LEAN = """
import sys
from octavo.grammar.lean_import import import_lean
import_lean()
print(*(name for name in ("torch._C", "transformers.utils") if name in sys.modules))
"""


def test_xgrammar_is_imported_without_what_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LEAN], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_version_that_needs_more_is_imported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AttributeError("no such name")

    begun: list[list[str]] = []
    monkeypatch.setattr(process, "import_lean", fail)
    monkeypatch.setattr(os, "execv", lambda path, words: begun.append([path, *words[-1:]]))
    process._import_xgrammar()
    assert begun == [[sys.executable, process.WHOLE]]
    monkeypatch.setattr(sys, "argv", [*sys.argv, process.WHOLE])
    process._import_xgrammar()
    assert len(begun) == 1


def started(popen: Any, more: list[str], words: list[str], **options: Any) -> Any:
    return popen([*words, *more], **options)


def test_grammars_of_a_process_that_imported_all_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    popen = subprocess.Popen
    for more in ([], [process.WHOLE]):
        monkeypatch.setattr(subprocess, "Popen", functools.partial(started, popen, more))
        server = ForkServer(Vocabulary(byte_tokenizer(), 300, (256,)))
        grammar = Compiler(server).compile(FORM)
        follower = Follower(server)
        follower.follow(1, grammar.key, grammar.form, [ord("a")])
        told: list[Told] = []
        while not told:
            assert not follower.ended
            follower.wait(60)
            told += follower.take()
        follower.close()
        made.append((grammar.first, told))
        server.close()
    assert made[0] == made[1]
    assert made[0][1][0].bits is not None


@pytest.mark.parametrize("quick_s", [0.0, 1e9], ids=["as written", "compiled again"])
def test_a_grammar_is_read_from_either_form(monkeypatch: pytest.MonkeyPatch, quick_s: float) -> None:
    """What comes next is the same whether who follows it compiles its source or reads what was compiled."""
    vocabularies = Vocabularies(Vocabulary(byte_tokenizer(), 300, (256,)))
    source = checked_source(FORM.source())
    monkeypatch.setattr(process, "QUICK_S", quick_s)
    compiled = process.Child(Any, vocabularies)._compile(source)  # type: ignore[arg-type]
    assert isinstance(compiled, Compiled)
    assert (compiled.data is None) is bool(quick_s)
    place = Following(vocabularies, process.read_form(vocabularies.info, compiled.data or source))
    assert place.bits() == compiled.first
    assert place.accept(ord("a"))
    assert place.bits() == compiled.first
    assert place.accept(ord("b"))
    assert not place.accept(ord("b"))
