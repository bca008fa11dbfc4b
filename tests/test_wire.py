"""Messages over a socket pair: whole and in order however the bytes arrive, and readable after the writer's death."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.wire import Wire


def pair() -> tuple[Wire, Wire]:
    ours, theirs = socket.socketpair()
    return Wire(ours), Wire(theirs)


@given(st.lists(st.binary(max_size=300), max_size=20))
@settings(max_examples=200, deadline=None)
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    ours, theirs = pair()
    for message in messages:
        ours.send(message)
    assert [theirs.read() for _ in messages] == messages
    assert theirs.receive() is None
    ours.close()
    with pytest.raises(EOFError):
        theirs.read()
    theirs.close()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
@settings(max_examples=200, deadline=None)
def test_any_division_of_the_bytes_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(struct.pack("<I", len(each)) + each for each in messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    ours, theirs = socket.socketpair()
    wire = Wire(theirs)
    arrived: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        ours.sendall(stream[begin:end])
        while (message := wire.receive()) is not None:
            arrived.append(message)
    assert arrived == messages
    ours.close()
    wire.close()


def test_a_message_larger_than_any_buffer_never_blocks_the_sender() -> None:
    ours, theirs = pair()
    large = [os.urandom(5_000_000), os.urandom(3)]
    for message in large:
        ours.send(message)  # returns, though nobody reads
    arrived: list[bytes] = []
    while len(arrived) < 2:
        ours.wait(0)
        if (data := theirs.receive()) is not None:
            arrived.append(data)
    assert arrived == large
    ours.close()
    theirs.close()


def test_both_may_send_much_at_once() -> None:
    ours, theirs = pair()
    parts = [os.urandom(2_000_000) for _ in range(4)]

    def other() -> None:
        for part in parts:
            theirs.send(part)
        got = [theirs.read() for _ in parts]
        theirs.flush()
        assert got == parts

    thread = threading.Thread(target=other)
    thread.start()
    for part in parts:
        ours.send(part)
    assert [ours.read() for _ in parts] == parts
    ours.flush()
    thread.join()
    ours.close()
    theirs.close()


def test_waiting_ends_with_a_message_or_the_end_and_not_before() -> None:
    ours, theirs = pair()
    assert not theirs.wait(0)
    assert not theirs.wait(0.01)
    ours.send(b"x")
    assert theirs.wait(None)
    assert theirs.receive() == b"x"
    assert not theirs.wait(0)
    ours.close()
    assert theirs.wait(None)
    assert theirs.receive() is None
    assert theirs.ended
    theirs.send(b"to nobody")
    theirs.flush()
    theirs.close()
    theirs.close()


CHILD = """
import os, signal
from octavo.wire import standard_input
wire = standard_input()
wire.send(wire.read() * 2)
wire.send(b"last words")
wire.flush()
assert os.read(0, 1) == b"", "standard input is empty"
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_process_wrote_can_be_read_after_its_death() -> None:
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=theirs.fileno())
    theirs.close()
    wire.send(b"ab")
    assert child.wait(60) == -signal.SIGKILL
    assert [wire.read(), wire.read()] == [b"abab", b"last words"]
    with pytest.raises(EOFError):
        wire.read()
    wire.close()
