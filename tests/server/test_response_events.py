"""However an answer is cut into parts, the events of its response add up to the same items, with the same scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from octavo.answers import Answer, AnswerSet, Part, Prompt, Reading, Tool
from octavo.answers.parsers import CALL_FORMS, REASONING, Start
from octavo.engine.update import FinishReason, Update
from octavo.messages import SampledToken, TokenScore
from octavo.sampling import SamplingParams
from octavo.server.responses.output import Output
from octavo.server.responses.scored_events import ScoredEvents
from octavo.text.tokenizer import FileTokenizer
from server.harness import byte_characters
from server.response_events import Fold

PIECES = [
    "<think>",
    "</think>",
    "</think>\n\nHi",
    "think",
    "<tool_call>",
    '{"name": "weather", "arguments": {"city": "a"}}',
    '{"name": "now"}',
    "</tool_call>",
    "</tool_call>\nb",
    "a<",
    "\n",
    "a",
    "<",
    " ",
    "stop",
]
"""Tokens of several characters, among them such as are a mark and more."""
FIRST_PIECE = 256
READINGS = {
    "bare": Reading(),
    "tools": Reading(form=CALL_FORMS["hermes"], tools=(Tool("weather", {}), Tool("now", {}))),
    "thoughts": Reading(reasoning=REASONING["qwen3"]),
    "both": Reading(
        reasoning=REASONING["qwen3"], form=CALL_FORMS["hermes"], tools=(Tool("weather", {}), Tool("now", {}))
    ),
    "opened": Reading(reasoning=REASONING["qwen3"], start=Start.OPENED),
}
FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def piece_tokenizer() -> FileTokenizer:
    """One token for each byte, and one for each of PIECES."""
    vocabulary = {char: byte for byte, char in enumerate(byte_characters())}
    as_bytes = {byte: char for char, byte in vocabulary.items()}
    for number, piece in enumerate(PIECES):
        vocabulary["".join(as_bytes[byte] for byte in piece.encode())] = FIRST_PIECE + number
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return FileTokenizer(backend, {})


TOKENIZER = piece_tokenizer()


def answering(reading: Reading) -> tuple[AnswerSet, Answer]:
    answers = AnswerSet("call", TOKENIZER, ["stop"], 0.0, reading=reading)
    (request,) = answers.requests_for(Prompt(0, [1], "x"), SamplingParams())
    return answers, answers[request.request_id]


def write_scores(scores: Sequence[TokenScore]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode([[score.token_id, score.logprob] for score in scores])[1:-1])


def plain(value: Any) -> Any:
    """As a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def told(tokens: Sequence[int], cuts: Sequence[int], reading: Reading, reason: FinishReason, **options: Any) -> Any:
    """The items that the events tell, put together, for an answer whose parts end at `cuts`."""
    answers, answer = answering(reading)
    options = {"write_scores": write_scores, **options}
    output = Output("x", splits=reading.splits, call_id=lambda index: f"call_{index}", **options)
    events: list[dict[str, Any]] = []
    for number, token in enumerate(tokens):
        last = number == len(tokens) - 1
        score = TokenScore(token, -float(number), 1, [])
        made = [SampledToken(0, token, score)]
        update = Update(request_id=answer.request_id, tokens=made, finish_reason=reason if last else None)
        answers.take(update, 1.0)
        if answer.finished():
            break
        if number in cuts:
            events += output.take(answer.take_part())
    events += output.take(answer.take_part(), last=True)
    events += output.end(complete=answer.finish_reason == "stop")
    fold = Fold()
    for event in events:
        fold.take(plain(event))
    assert fold.ended
    assert fold.output == plain(output.items())
    return fold.output, answer


TOKENS = st.lists(
    st.one_of(st.integers(FIRST_PIECE, FIRST_PIECE + len(PIECES) - 1), st.sampled_from(list("€b.".encode()))),
    min_size=1,
    max_size=16,
)


@pytest.mark.parametrize("name", READINGS)
@FAST
@given(st.data())
def test_any_division_adds_up_to_the_same_items(name: str, data: st.DataObject) -> None:
    reading = READINGS[name]
    tokens = data.draw(TOKENS)
    reason = data.draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    cuts = data.draw(st.lists(st.integers(0, len(tokens)), max_size=8))
    whole, answer = told(tokens, [], reading, reason)
    assert told(tokens, cuts, reading, reason)[0] == whole
    assert told(tokens, range(len(tokens)), reading, reason)[0] == whole
    assert [item["status"] for item in whole[:-1]] == ["completed"] * (len(whole) - 1)
    assert whole[-1]["status"] == ("completed" if answer.finish_reason == "stop" else "incomplete")
    if not reading.splits:
        assert [item["content"][0]["text"] for item in whole] == [answer.text]
    scored: list[float] = []
    for item in whole:
        if item["type"] == "message":
            part = item["content"][0]
            pieces = b"".join(TOKENIZER.piece(token) for token, _ in part["logprobs"]).decode(errors="replace")
            if "\ufffd" not in part["text"] + pieces:  # else characters are cut
                assert part["text"] in pieces, "tokens that are the text"
            scored += [logprob for _, logprob in part["logprobs"]]
    assert scored == sorted(set(scored), reverse=True), "each token once, in its order"


def test_a_twin_that_tells_scores_with_their_part_is_found() -> None:
    class Hasty(ScoredEvents):
        """Gives content all tokens that came with it."""

        def take(self, part: Part, *, last: bool) -> Any:
            rest = [score for score in part.scores if score is not None]
            for event in part.events:
                yield event, rest
                rest = []

    reading = READINGS["both"]
    tokens = [FIRST_PIECE + PIECES.index(piece) for piece in ("<think>", "a", "</think>", "a", "<", "a", "\n")]
    right, _ = told(tokens, [], reading, FinishReason.STOP)
    assert right == told(tokens, range(7), reading, FinishReason.STOP)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("octavo.server.responses.output.ScoredEvents", Hasty)
        twin, _ = told(tokens, [], reading, FinishReason.STOP)
        assert twin != told(tokens, range(7), reading, FinishReason.STOP)[0]


def test_a_twin_that_forgets_to_close_an_item_is_found() -> None:
    class Forgetful(Output):
        def end(self, *, complete: bool) -> list[dict[str, Any]]:
            return super().end(complete=complete)[:-1]

    output = Forgetful("x", splits=False, call_id=str)
    fold = Fold()
    for event in output.take(Part(text="a"), last=True) + output.end(complete=True):
        fold.take(plain(event))
    assert not fold.ended
