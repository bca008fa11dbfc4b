"""Many requests that are asked about together get what each would get alone, in the order in which they were asked about."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from grammar.grammars import Forms, ids_of
from octavo.grammar import Follower, Grammar
from octavo.grammar.following import GROUP
from octavo.structured_outputs import StructuredOutputsParams
from server.harness import EOS

COUNT = 3 * GROUP + 7


@pytest.fixture(scope="module")
def forms() -> Iterator[Forms]:
    opened = Forms()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def grammars(forms: Forms) -> list[Grammar]:
    asked = [
        StructuredOutputsParams(regex="[a-f]{2,9}(é|日本)?"),
        StructuredOutputsParams(json={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
        StructuredOutputsParams(choice=["a", "ab", "abc"]),
    ]
    return [forms.compile(each) for each in asked]


def answers(follower: Follower, count: int) -> dict[int, bytes | None]:
    told: list[tuple[int, bytes | None]] = []
    while len(told) < count:
        follower.wait(60)
        told += follower.take()
        assert not follower.ended
    assert len({*(request for request, _ in told)}) == len(told) == count
    return dict(told)


def test_many_together_get_what_each_gets_alone(forms: Forms, grammars: list[Grammar]) -> None:
    """Some in each group end, or make a token that may not come; nobody else notices."""
    pick = random.Random(2)
    together, alone = Follower(forms.fork_server), Follower(forms.fork_server)
    made: dict[int, list[int]] = {}
    for request in range(COUNT):
        made[request] = []
        together.follow(request, grammars[request % 3].key, grammars[request % 3].form, [])
    told = answers(together, COUNT)
    sizes, ended, strayed = [], 0, 0
    number = COUNT
    for _ in range(8):
        moves = []
        for request, bits in told.items():
            ids = [] if bits is None else ids_of(bits)
            ended += bits is not None and (not ids or made[request][-1:] == [EOS])
            if not ids or made[request][-1:] == [EOS]:
                continue
            token = ord("#") if pick.random() < 0.05 else pick.choice(ids)
            made[request].append(token)
            moves.append((request, token))
        sizes.append(len(moves))
        pick.shuffle(moves)
        together.advance(moves)
        told = answers(together, len(moves))
        assert [*told] == [request for request, _ in moves]
        for request, bits in told.items():
            number += 1
            alone.follow(number, grammars[request % 3].key, grammars[request % 3].form, made[request])
            assert answers(alone, 1) == {number: bits}
            strayed += bits is None
    assert sizes[0] == COUNT
    assert sum(size > GROUP for size in sizes) > 2
    assert ended > 5
    assert strayed > 5
    together.close()
    alone.close()


def test_equal_masks_of_a_group_are_one_object(forms: Forms, grammars: list[Grammar]) -> None:
    follower = Follower(forms.fork_server)
    for request in range(COUNT):
        follower.follow(request, grammars[0].key, grammars[0].form, [])
    answers(follower, COUNT)
    follower.advance([(request, ord("a")) for request in range(COUNT)])
    assert len({id(bits) for bits in answers(follower, COUNT).values()}) == 1
    follower.close()


BOUNDED = {
    "type": "sequence",
    "elements": [
        {"type": "tag", "begin": "", "content": {"type": "any_text", "max_tokens": 4}, "end": "</t>"},
        {"type": "regex", "pattern": "[a-c]{2,6}"},
    ],
}
"""Text of up to four tokens, whose end is enforced behind them."""


@pytest.mark.parametrize("seed", range(12))
def test_who_is_told_of_all_tokens_at_once_says_what_was_said_of_each(forms: Forms, seed: int) -> None:
    """As after the death of the process before: xgrammar counts where it makes masks, so a bound in tokens depends on these."""
    tag = {"type": "structural_tag", "format": BOUNDED}
    grammar = forms.compile(StructuredOutputsParams(structural_tag=tag))
    pick = random.Random(seed)
    follower = Follower(forms.fork_server)
    follower.follow(0, grammar.key, grammar.form, [])
    made: list[int] = []
    bits = answers(follower, 1)[0]
    while bits is not None and (ids := ids_of(bits)) and made[-1:] != [EOS]:
        made.append(ord("<") if ord("<") in ids and len(made) > 1 else pick.choice(ids))
        follower.advance([(0, made[-1])])
        bits = answers(follower, 1)[0]
        follower.follow(len(made), grammar.key, grammar.form, made)
        assert answers(follower, 1) == {len(made): bits}, bytes(token for token in made if token < 256)
    assert len(made) > 5
    follower.close()
