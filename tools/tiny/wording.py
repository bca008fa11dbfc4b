"""Many ways to say one thing: frames of politeness, punctuation and case around a request."""

from __future__ import annotations

from random import Random

Frames = tuple[tuple[str, int], ...]

# "@" stands for the request as written, "~" for the request with a small first letter.
TELL_FRAMES: Frames = (
    ("@.", 6),
    ("@", 5),
    ("@!", 1),
    ("Please ~.", 4),
    ("please ~", 2),
    ("@, please.", 2),
    ("@ please", 2),
    ("Can you ~?", 3),
    ("Could you ~?", 2),
    ("Could you please ~?", 1),
    ("Would you ~, please?", 1),
    ("I want you to ~.", 1),
    ("I need you to ~", 1),
    ("Now ~.", 1),
    ("Then ~.", 1),
    ("Hi! Please ~.", 1),
    ("Hello, can you ~?", 1),
    ("Hey, ~", 1),
    ("OK, ~.", 1),
)
ASK_FRAMES: Frames = (
    ("@?", 9),
    ("@", 5),
    ("@, please?", 2),
    ("@ please", 1),
    ("Please tell me: ~?", 1),
    ("Tell me, ~?", 1),
    ("Can you tell me: ~?", 1),
    ("Hi! @?", 1),
    ("Hello, ~?", 1),
    ("Hey, ~?", 1),
    ("So ~?", 1),
    ("And ~?", 2),
    ("OK, ~?", 1),
    ("Quick question: ~?", 1),
    ("I would like to know: ~?", 1),
)
BARE_FRAMES: Frames = (("@", 6), ("@?", 2), ("@ please", 1), ("Hi! @", 1), ("And @?", 1))


def _pick(rng: Random, frames: Frames) -> str:
    return rng.choices([frame for frame, _ in frames], [weight for _, weight in frames])[0]


def phrase(
    rng: Random, *, ask: tuple[str, ...] = (), tell: tuple[str, ...] = (), bare: tuple[str, ...] = (), **fields: object
) -> str:
    """One request with `fields` filled in.

    ask: questions without their question mark; tell: imperatives without their full stop; bare: fragments such as
    "{a}+{b}". Case changes touch the wording, never the fields.
    """
    index = rng.randrange(len(ask) + len(tell) + len(bare))
    if index < len(ask):
        template, frames = ask[index], ASK_FRAMES
    elif index < len(ask) + len(tell):
        template, frames = tell[index - len(ask)], TELL_FRAMES
    else:
        template, frames = bare[index - len(ask) - len(tell)], BARE_FRAMES
    frame = _pick(rng, frames)
    text = frame.replace("@", template).replace("~", template[0].lower() + template[1:])
    if rng.random() < 0.25:
        text = text.lower()
    return text.format(**fields)


def quoted(rng: Random, text: str) -> str:
    """`text`, bare or in one of the usual quotes."""
    return rng.choice(("{}", "{}", "'{}'", '"{}"')).format(text)


def marked(rng: Random, text: str) -> str:
    """`text` in quotes: for phrases that could not be told from the request around them."""
    return rng.choice(("'{}'", '"{}"')).format(text)


def listed(rng: Random, items: list[str]) -> str:
    """Items as people write lists."""
    return rng.choice((", ", ", ", ", ", " ", ",")).join(items)
