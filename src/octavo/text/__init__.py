"""Text and token ids: tokenizer, detokenizer, chat template, default sampling. No torch."""

from octavo.text.chat_template import ChatTemplate, load_chat_template
from octavo.text.detokenizer import Detokenizer
from octavo.text.generation_config import DefaultSampling, load_default_sampling
from octavo.text.stop import StopStrings, check_stops
from octavo.text.tokenizer import NoTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ChatTemplate",
    "DefaultSampling",
    "Detokenizer",
    "NoTokenizer",
    "StopStrings",
    "Tokenizer",
    "check_stops",
    "load_chat_template",
    "load_default_sampling",
    "load_tokenizer",
]
