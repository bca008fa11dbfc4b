"""Request fields of OpenAI, vLLM and others that no model of a body has: which change nothing here, which are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from octavo.errors import RequestError

log = logging.getLogger(__name__)

WITHOUT_EFFECT = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "prediction",
        "media_io_kwargs",
        "tool_stream",
    ]
)
"""Fields that clients send and that change no answer."""

_TOOLS = "tools belong to chat"
_STRUCTURED = "use structured_outputs, or response_format"
_BEAMS = "beam search is not supported; use n with a temperature"
_TEXT = "prompts and answers are text"
_ONE_ENGINE = "there is one engine; leave it out"
_LOGPROBS = "use logprobs"
_OTHERS = "it belongs to completions and chat"

Refusal: TypeAlias = tuple[tuple[Any, ...], str]
"""The values of a field that ask for nothing, and what to do instead."""

REFUSED: Mapping[str, Refusal] = {
    "suffix": (
        (None, ""),
        "text is only continued at its end; a model that fills in the middle has marks for it, to be written into the prompt",
    ),
    "use_beam_search": ((None, False), _BEAMS),
    "length_penalty": ((None, 1, 1.0), _BEAMS),
    "early_stopping": ((None, False), _BEAMS),
    "tools": ((None, []), _TOOLS),
    "tool_choice": ((None, "none", "auto"), _TOOLS),
    "parallel_tool_calls": ((None, True, False), _TOOLS),
    "functions": ((None, []), "use tools"),
    "function_call": ((None, "none", "auto"), "use tool_choice"),
    "web_search_options": ((None,), "the server searches nothing; put what is to be known into the messages"),
    "json_schema": ((None,), _STRUCTURED),
    "regex": ((None,), _STRUCTURED),
    "ebnf": ((None,), _STRUCTURED),
    "grammar": ((None, ""), _STRUCTURED),
    "reasoning": ((None,), "use reasoning_effort on chat, or chat_template_kwargs"),
    "reasoning_effort": ((None,), "it belongs to chat; write the prompt so that the model thinks or does not"),
    "include_reasoning": ((None, True), "it belongs to chat"),
    "separate_reasoning": ((None, True), "thoughts come apart on chat; --reasoning-parser none leaves them in"),
    "thinking_token_budget": ((None, -1), "it belongs to chat"),
    "enable_thinking": ((None,), 'use chat_template_kwargs: {"enable_thinking": ...}'),
    "verbosity": ((None, "medium"), "say in the messages how long the answer is to be; max_tokens bounds it"),
    "moderation": ((None,), "answers are not moderated"),
    "prompt_embeds": ((None,), "prompts are texts or token ids"),
    "input_ids": ((None,), "use prompt, which may be token ids"),
    "truncate_prompt_tokens": ((None,), "it belongs to completions and chat; send a shorter prompt"),
    "truncation_side": ((None,), "it belongs to completions and chat; send a shorter prompt"),
    "logprob_token_ids": ((None, []), _OTHERS),
    "return_logprob": ((None, False), _LOGPROBS),
    "top_logprobs_num": ((None, 0), _LOGPROBS),
    "return_tokens_as_token_ids": ((None, False), _OTHERS),
    "return_token_offsets": ((None, False), "the text_offset of logprobs says where tokens begin"),
    "return_prompt_text": ((None, False), "POST /tokenize shows what becomes of messages; echo shows a prompt"),
    "return_assistant_tokens_mask": ((None, False), "it belongs to training"),
    "return_hidden_states": ((None, False), "answers are text"),
    "return_routed_experts": ((None, False), "answers are text"),
    "allowed_token_ids": ((None, []), _OTHERS),
    "bad_words": ((None, []), _OTHERS),
    "no_stop_trim": ((None, False), "use include_stop_str_in_output"),
    "stop_regex": ((None, [], ""), "use stop"),
    "min_new_tokens": ((None, 0), "use min_tokens"),
    "max_new_tokens": ((None,), "use max_tokens"),
    "num_predict": ((None,), "use max_tokens"),
    "n_predict": ((None,), "use max_tokens"),
    "repeat_penalty": ((None, 1, 1.0), "use repetition_penalty"),
    "n_probs": ((None, 0), _LOGPROBS),
    "think": ((None,), 'use reasoning_effort, or chat_template_kwargs: {"enable_thinking": ...}'),
    "tfs_z": ((None, 1, 1.0), "use top_p or min_p"),
    "dynatemp_range": ((None, 0), "use temperature"),
    "xtc_probability": ((None, 0), "use top_p or min_p"),
    "dry_multiplier": ((None, 0), "use repetition_penalty"),
    "typical_p": ((None, 1, 1.0), "use top_p or min_p"),
    "top_a": ((None, 0), "use top_p or min_p"),
    "mirostat": ((None, 0), "use temperature and top_p"),
    "repetition_detection": ((None,), "use repetition_penalty, or max_tokens"),
    "no_repeat_ngram_size": ((None, 0), "use repetition_penalty"),
    "custom_logit_processor": ((None,), "code from the network is never run"),
    "logits_processors": ((None, []), "code from the network is never run"),
    "priority": ((None, 0), _OTHERS),
    "cache_salt": ((None, ""), _OTHERS),
    "kv_transfer_params": ((None,), _ONE_ENGINE),
    "ec_transfer_params": ((None,), _ONE_ENGINE),
    "vllm_xargs": ((None, {}), "there are no extensions that read it"),
    "lora_path": ((None, ""), "adapters are not supported"),
    "documents": ((None, []), "they belong to chat; put them into the prompt"),
    "chat_template": ((None,), "templates come from the model or from --chat-template, never from a request"),
    "modalities": ((None, ["text"]), _TEXT),
    "audio": ((None,), _TEXT),
    "mm_processor_kwargs": ((None, {}), _TEXT),
}
"""Fields that would change the answer."""

_seen_unknown: set[frozenset[str]] = set()
_MOST_WARNINGS = 1000


def check_unserved(extra: Mapping[str, Any], refused: Mapping[str, Refusal] = REFUSED) -> None:
    """Raises RequestError for the first of the fields that would change the answer."""
    for name, value in extra.items():
        harmless, remedy = refused.get(name, ((value,), ""))
        if value not in harmless:
            raise RequestError(f"{name} cannot be served here: {remedy}", param=name)


def unknown_names(extra: Iterable[str], refused: Mapping[str, Refusal] = REFUSED) -> frozenset[str]:
    """Picks the names that nothing here knows; long ones are shortened, and there are no more than a line shows."""
    unknown = [name for name in extra if name not in WITHOUT_EFFECT and name not in refused]
    return frozenset(name[:64] for name in sorted(unknown)[:20])


def warn_unknown(unknown: frozenset[str]) -> None:
    """Name fields that nothing reads in one line of the log, once for each set of names."""
    if unknown and unknown not in _seen_unknown and len(_seen_unknown) < _MOST_WARNINGS:
        _seen_unknown.add(unknown)
        log.warning("ignored unknown request fields: %s", ascii(", ".join(sorted(unknown))))
