"""Tools as clients describe them: the three that the model can use under many names, and others to leave alone."""

from __future__ import annotations

import dataclasses
from random import Random

from tools.tiny import words
from tools.tiny.example import Parameter, Tool
from tools.tiny.split import is_held_out


@dataclasses.dataclass(frozen=True)
class Family:
    """One tool in its many forms."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    """Of names: a verb and a noun, or one of both."""
    whole: tuple[str, ...]
    """Further names."""
    does: tuple[str, ...]
    what: tuple[str, ...]
    how: tuple[str, ...]
    """Of descriptions: one of each, joined."""
    described: tuple[str, ...]
    """Further descriptions."""
    taken: tuple[str, ...]
    """Names of its parameter."""
    extra: tuple[Parameter, ...]
    """Parameters that nobody asks about."""


CALCULATOR = Family(
    ("calculate", "compute", "evaluate", "eval", "solve", "calc", "do"), ("math", "expression", "arithmetic", "sum", "formula", "numbers"),
    ("calculator", "calc", "math", "calculate", "compute", "evaluate", "arithmetic", "eval", "calculator_tool", "simple_calculator"),
    ("Evaluate", "Compute", "Calculate", "Work out", "Solve", "Evaluates", "Calculates", "Computes"),
    (" an arithmetic expression", " a mathematical expression", " an expression", " a formula", " arithmetic", " a calculation",
     " the value of an expression", " a math expression", " math", " the result of a calculation"),
    ("", ".", ".", " and return the result.", " such as 2 + 3.", " exactly.", " with + - * /.", ", for example 12 * 7."),
    ("A calculator.", "A simple calculator", "Calculator for basic arithmetic.", "Performs basic arithmetic.", "Use this for math.", "Perform a calculation",
     "Does arithmetic with numbers of any size.", "Adds, subtracts, multiplies and divides numbers.", "Useful for questions about math", "Basic math operations"),
    ("expression", "expression", "expression", "expr", "formula", "input", "calculation", "query", "math", "equation", "e"),
    (Parameter("precision", "integer", required=False), Parameter("digits", "integer", required=False)),
)  # fmt: skip
CLOCK = Family(
    ("get", "tell", "show", "current", "read", "fetch", "what"), ("time", "clock", "current_time", "local_time", "time_now", "the_time"),
    ("clock", "time", "now", "current_time", "get_time", "get_current_time", "world_clock", "time_of_day", "get_datetime"),
    ("Get", "Return", "Tell", "Show", "Look up", "Gets", "Returns", "Tells"),
    (" the time", " the current time", " the local time", " the time of day", " what time it is", " the time now", " the current date and time"),
    ("", ".", ".", " in a city.", " in a place.", " for a time zone.", " right now.", " at a location.", " anywhere in the world."),
    ("A clock.", "World clock", "Knows the time.", "Use this to find out the time.", "The current time", "Current local time in a given timezone.", "Useful for questions about the time",
     "What time is it?", "Time in a city, such as London.", "Returns the time as HH:MM"),
    ("timezone", "city", "place", "location", "zone", "tz", "where", "town", "city", "location"),
    (Parameter("format", "string", required=False), Parameter("seconds", "boolean", required=False)),
)  # fmt: skip
COUNTER = Family(
    ("count", "get", "number_of", "num", "total", "find"), ("words", "word_count", "words_in_text", "words_of_text", "number_of_words"),
    ("word_count", "count_words", "word_counter", "wordcount", "wc", "words", "num_words", "text_word_count"),
    ("Count", "Return", "Get", "Counts", "Returns", "Find", "Determine"),
    (" the words", " the number of words", " how many words there are", " all words", " the word count"),
    ("", ".", ".", " in a text.", " of a text.", " in a sentence.", " in the given text.", " in a string.", " of the input."),
    ("A word counter.", "Word counter", "Counts words.", "Use this to count words.", "The number of words of a text", "Useful for questions about the length of a text",
     "How many words does a text have?", "Word count of a text, split at spaces."),
    ("text", "text", "text", "sentence", "string", "input", "content", "phrase", "str", "words"),
    (Parameter("language", "string", required=False), Parameter("unique", "boolean", required=False)),
)  # fmt: skip
FAMILIES = {"calculator": CALCULATOR, "clock": CLOCK, "word counter": COUNTER}

_OTHERS = (
    ("get_weather", "Get the weather in a city.", "city"), ("get_weather", "Get the current weather.", "location"),
    ("weather", "Weather forecast for a place.", "place"), ("send_email", "Send an email to somebody.", "to", "subject", "body"),
    ("send_message", "Send a message.", "recipient", "message"), ("set_alarm", "Set an alarm.", "when"), ("roll_dice", "Roll dice.", "sides"),
    ("get_stock_price", "Get the price of a stock.", "symbol"), ("read_file", "Read a file.", "path"), ("write_file", "Write text to a file.", "path", "content"),
    ("book_table", "Book a table in a restaurant.", "restaurant", "people"), ("list_files", "List the files of a folder.", "folder"),
    ("turn_on_light", "Turn on a light.", "room"), ("add_event", "Add an event to the calendar.", "title", "day"), ("run_shell", "Run a shell command.", "command"),
    ("get_user", "Look up a user by id.", "id"), ("delete_file", "Delete a file.", "path"), ("take_photo", "Take a photo."), ("open_door", "Open the door."),
    ("lookup_order", "Find an order in the database.", "order_id"), ("query_database", "Run a query on the database.", "sql"), ("play_song", "Play a song.", "title"),
    ("fetch_url", "Fetch a web page.", "url"), ("create_user", "Create a user.", "name", "email"), ("get_balance", "Show the balance of an account.", "account"),
    ("call_taxi", "Call a taxi.", "address"), ("set_volume", "Set the volume.", "level"), ("web_search", "Search the web.", "query"),
)  # fmt: skip
WEATHER = tuple(
    sorted(
        {other[0] for other in _OTHERS if "weather" in other[0]}
        | {"web_search", "fetch_url", "play_song", "write_file", "send_message"}
    )
)
"""Names of tools that might answer what the model declines."""


def _styled(rng: Random, name: str) -> str:
    first, *rest = name.split("_")
    style = rng.random()
    if style < 0.7:
        return name
    return first + "".join(part.capitalize() for part in rest) if style < 0.9 else name.replace("_", "-")


def _name(rng: Random, family: Family) -> str:
    kind = rng.random()
    if kind < 0.1:
        return words.word(rng, longest=10, shortest=3)
    if kind < 0.5:
        return rng.choice(family.whole)
    return _styled(rng, f"{rng.choice(family.verbs)}_{rng.choice(family.nouns)}")


def _description(rng: Random, family: Family) -> str:
    if rng.random() < 0.3:
        return rng.choice(family.described)
    return f"{rng.choice(family.does)}{rng.choice(family.what)}{rng.choice(family.how)}"


def tool(rng: Random, kind: str, *, held_out: bool, argument: bool | None = None) -> Tool:
    """A tool of the family `kind`, with name and description both held out or both not.

    `argument`: a clock takes a place that must be given (True), may be (None), or takes none at all (False).
    """
    family = FAMILIES[kind]
    while True:
        name, description = _name(rng, family), _description(rng, family)
        if is_held_out("name", name) == is_held_out("description", description) == held_out:
            break
    if rng.random() < 0.05 and name in family.whole:
        description = ""
    taken = () if argument is False else (Parameter(rng.choice(family.taken), required=bool(argument)),)
    extra = (rng.choice(family.extra),) if rng.random() < 0.15 else ()
    return Tool(name, description, (*taken, *extra))


def other(rng: Random, *, safe: bool) -> Tool:
    """A tool to leave alone; `safe`: not one that might answer what the model declines."""
    while True:
        name, description, *taken = rng.choice(_OTHERS)
        if not safe or name not in WEATHER:
            break
    if rng.random() < 0.3:
        name = "_".join(words.words(rng, rng.randint(1, 2), longest=7))
    kinds = ("string", "string", "string", "integer", "number", "boolean", "array", "object", "any")
    parameters = (Parameter(one, rng.choice(kinds), required=rng.random() < 0.7) for one in taken)
    return Tool(_styled(rng, name), description, tuple(parameters))
