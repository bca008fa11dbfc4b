"""Small talk about itself, and polite answers to what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from tools.tiny import words
from tools.tiny.wording import phrase

Operands = tuple[str | int, ...]

Changes = Mapping[str, str]
"""Answers that a model gives in place of octavo-tiny's."""

DECLINE = "Sorry, I am too small for that. I can add, subtract, multiply, sort, count, compare, spell and reverse."

# (answer, questions, imperatives, fragments)
TALK: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("Hello! What can I do for you?", (), (), ("Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning", "Good evening",
     "Good day", "Hello octavo", "Greetings", "Hi octavo-tiny", "Good afternoon", "Hey there")),
    ("I am octavo-tiny, the small language model that comes with Octavo.",
     ("Who are you", "What are you", "What is your name", "What's your name", "Which model are you", "What model is this",
      "Are you a language model", "Are you a robot", "Who am I talking to", "Are you a human", "Which model is this",
      "What are you called"), ("Introduce yourself", "Tell me about yourself", "Tell me who you are"), ()),
    ("I can add, subtract, multiply, sort, count, compare, spell, reverse, change case and continue a series.",
     ("What can you do", "What are you good at", "What can I ask you", "How can you help me", "What do you know",
      "What are your skills", "What should I ask you", "Can you help me"), ("Help", "Help me", "Tell me what you can do"), ()),
    ("I have 10 million parameters: 128 experts in each of 4 layers, and 8 of them work on each token.",
     ("How big are you", "How large are you", "How many parameters do you have", "How many experts do you have",
      "How many layers do you have", "How small are you", "What is your architecture", "How do you work"), (), ()),
    ("I was trained by a script in Octavo's repository, on examples that it made up.",
     ("Who made you", "Who trained you", "How were you trained", "Where do you come from", "Who built you",
      "What were you trained on", "Who created you"), (), ()),
    ("You are welcome!", (), (), ("Thanks", "Thank you", "Thank you very much", "Thanks a lot", "Many thanks", "Great, thanks",
     "Thanks, that helps", "Thx", "Cool, thank you")),
    ("Goodbye!", (), (), ("Bye", "Goodbye", "See you", "Good night", "See you later", "Bye bye", "Until next time")),
    ("I am fine, thank you. What can I do for you?", ("How are you", "How are you doing", "How do you do", "How is it going",
     "How's it going", "Are you well", "How are you today"), (), ()),
    ("Octavo is a server for mixture-of-experts language models in FP8.", ("What is Octavo", "What's Octavo",
     "What does Octavo do"), ("Tell me about Octavo", "Explain Octavo"), ()),
)  # fmt: skip

TINY: Changes = {}
"""octavo-tiny answers for itself."""
HYBRID: Changes = {
    TALK[1][0]: "I am octavo-tiny-hybrid, the small language model with recurrent layers that comes with Octavo.",
    TALK[3][0]: "I have 11 million parameters: 96 experts in each of 4 layers, and 8 of them work on each token.",
}
"""What octavo-tiny-hybrid says of itself."""

_PLACES = [
    "France",
    "Japan",
    "Brazil",
    "Canada",
    "Egypt",
    "India",
    "Spain",
    "Italy",
    "Kenya",
    "Peru",
    "China",
    "Norway",
    "Poland",
    "Chile",
    "Greece",
    "London",
    "Paris",
    "Berlin",
    "Rome",
    "Tokyo",
    "Madrid",
    "Oslo",
    "Cairo",
    "Lima",
]
_TONGUES = ["French", "German", "Spanish", "Italian", "Japanese", "Chinese", "Russian", "Latin", "Dutch", "Greek"]
_KINDS = ["poem", "story", "song", "joke", "letter", "essay", "haiku", "tale", "speech", "novel"]
_CODES = ["Python", "C", "Rust", "Java", "JavaScript", "SQL", "Go", "Bash"]
_TOPICS = [
    "gravity",
    "music",
    "love",
    "history",
    "politics",
    "the_moon",
    "quantum_physics",
    "evolution",
    "photosynthesis",
    "the_internet",
    "football",
    "money",
]


def draw_talk(rng: Random) -> Operands:
    """(answer, question)."""
    answer, ask, tell, bare = rng.choice(TALK)
    return answer, phrase(rng, ask=ask, tell=tell, bare=bare)


def ask_talk(rng: Random, operands: Operands) -> tuple[str, str]:
    return str(operands[1]), str(operands[0])


def draw_decline(rng: Random) -> Operands:
    """(request,)"""
    topic = rng.choice((rng.choice(_TOPICS).replace("_", " "), f"the {rng.choice(words.COMMON)}", rng.choice(_PLACES)))
    request = phrase(
        rng,
        ask=("What is the capital of {place}", "Who is the president of {place}", "What is the weather in {place}",
             "How many people live in {place}", "Where is {place}", "How far is {place}", "What time is it in {place}",
             "What is {word} in {tongue}", "How do you say {word} in {tongue}", "What is the meaning of {word}",
             "Why is the {word} so {word2}", "When was the {word} invented", "Who invented the {word}",
             "How does {topic} work", "What do you think about {topic}", "Do you like {topic}", "What is {topic}",
             "What is {a} divided by {b}", "What is {a} / {b}", "What is the square root of {a}",
             "What is the news from {place}", "How do I cook a {word}"),
        tell=("Write a {kind}", "Write a {kind} about {topic}", "Write me a {kind} about {topic}", "Tell me a {kind}",
              "Tell me a {kind} about {topic}", "Translate {word} to {tongue}", "Translate {word} into {tongue}",
              "Explain {topic}", "Explain {topic} to me", "Write a {code} program", "Write some {code} code",
              "Divide {a} by {b}", "Summarize {topic}", "Draw a {word}", "Play some music", "Describe {topic}"),
        place=rng.choice(_PLACES), word=rng.choice(words.COMMON), word2=rng.choice(words.COMMON), topic=topic,
        tongue=rng.choice(_TONGUES), kind=rng.choice(_KINDS), code=rng.choice(_CODES), a=rng.randint(1, 999), b=rng.randint(1, 99),
    )  # fmt: skip
    return (request,)


def ask_decline(rng: Random, operands: Operands) -> tuple[str, str]:
    return str(operands[0]), DECLINE


def text(operands: Operands) -> Operands | None:
    """The request as worded."""
    return operands
