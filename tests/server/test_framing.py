"""Where bodies end, whatever they hold and wherever what is received of them is cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octavo.errors import RequestError
from octavo.server.errors import HeadersTooLargeError
from octavo.server.framing import MAX_LINE_BYTES, framing

NEXT = b"GET / HTTP/1.1\r\n"
CHUNKS = {
    "a byte each": b"1\r\nx\r\n" * 300,
    "with extensions": b'1;a="b"\r\nx\r\n' * 300,
    "zeros before the size": b"0f \r\n" + b"y" * 15 + b"\r\n",
    "sixteen bytes": (b"10\r\n" + b"y" * 16 + b"\r\n") * 20,
    "large and small": (b"1F4\r\n" + b"y" * 500 + b"\r\n1\r\nz\r\n") * 5,
    "what looks like the end": b"5\r\n0\r\n\r\n\r\n" * 20 + b"14\r\n0\r\n\r\n" + b"0\r\n\r\n" * 3 + b"\r\n",
    "none": b"",
}
ENDS = {"empty": b"0\r\n\r\n", "zeros": b"000;x\r\n\r\n", "fields": b"0\r\nab: c\r\n0: d\r\n\r\n"}


def body_ends(headers: list[tuple[bytes, bytes]], parts: Iterator[bytes], size: int) -> int:
    """Where the framing says that the body ends, of which it is given parts as they come."""
    its, seen = framing(headers), 0
    for part in parts:
        at = 0
        while at < len(part) and seen < size:
            end = its.reach(part, at)
            assert end > at
            seen, at = seen + end - at, end
    return seen


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 100_000])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_chunks_end_where_the_last_one_says(chunks: str, end: str, step: int) -> None:
    body = CHUNKS[chunks] + ENDS[end]
    whole = body + NEXT
    parts = (whole[at : at + step] for at in range(0, len(whole), step))
    assert body_ends([(b"transfer-encoding", b"chunked")], parts, len(body)) == len(body)


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_length_is_the_end(step: int) -> None:
    whole = b"0\r\n\r\n" * 30 + NEXT
    parts = (whole[at : at + step] for at in range(0, len(whole), step))
    assert body_ends([(b"host", b"x"), (b"content-length", b"150")], parts, 150) == 150


@pytest.mark.parametrize("junk", [b"zz\r\n", b"-5\r\n", b"\r\n", b"0x10\r\n", b"f" * 5000, b"1\nx\n", b"1\r\nxyz"])
def test_what_has_no_form_is_passed_on(junk: bytes) -> None:
    """The parser refuses it; here it must only not be waited for."""
    its, at = framing([(b"transfer-encoding", b"chunked")]), 0
    data = junk * 10
    while at < len(data):
        end = its.reach(data, at)
        assert end > at
        at = end


@pytest.mark.parametrize("step", [1000, 100_000])
@pytest.mark.parametrize(
    ("start", "line", "error"),
    [
        (b"0\r\n", b"a: b\r\n", HeadersTooLargeError),
        (b"0\r\n", b"a: " + b"b" * 1000 + b"\r\n", HeadersTooLargeError),
        (b"0\r\n", b"b", HeadersTooLargeError),
        (b"3;x=", b"y", RequestError),
        (b"", b"0", RequestError),
    ],
    ids=["short fields", "long fields", "an endless field", "an endless extension", "endless zeros"],
)
def test_what_is_no_data_has_an_end(start: bytes, line: bytes, error: type[RequestError], step: int) -> None:
    """However it is cut, no more is passed on than the bound."""
    data = start + line * (2 * MAX_LINE_BYTES // len(line))
    passed: list[int] = []

    def pass_on() -> None:
        its = framing([(b"transfer-encoding", b"chunked")])
        for part in (data[at : at + step] for at in range(0, len(data), step)):
            at = 0
            while at < len(part):
                end = its.reach(part, at)
                passed.append(end - at)
                at = end

    with pytest.raises(error) as raised:
        pass_on()
    assert type(raised.value) is error
    assert sum(passed) <= MAX_LINE_BYTES + len(start)
