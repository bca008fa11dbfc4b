"""Names of vLLM's Python interface that nothing in Octavo serves: what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

from octavo.errors import RequestError

_NO_LORA = "LoRA adapters are not served; merge the adapter into the model"
_ONLY_TEXT = "text is the only modality"
ARGUMENTS = {
    "lora_request": _NO_LORA,
    "prompt_adapter_request": "prompt adapters are not served",
    "guided_options_request": "give structured_outputs in SamplingParams",
    "mm_processor_kwargs": _ONLY_TEXT,
    "trace_headers": "traces are not served yet",
    "data_parallel_rank": "there is one engine; leave it out",
    "stat_loggers": "octavo serve has /metrics",
    "multi_modal_data": _ONLY_TEXT,
    "multi_modal_uuids": _ONLY_TEXT,
    "prompt_embeds": "prompts are texts or token ids",
}
"""Argument of a call, or key of a prompt, to what to do instead."""

_GENERATES = "generating text is the only task"
_OTHER_MODEL = "a served model is not changed; close this one, and start another"
ATTRIBUTES = {
    "llm_engine": "the engine is not for use from outside; get_tokenizer(), get_default_sampling_params(), vocab_size, "
    "max_model_len and settings tell of it, and AsyncLLM streams",
    "model_config": "max_model_len, vocab_size and settings tell of the model",
    "vllm_config": "settings holds what was set",
    "beam_search": "beam search is not served; ask for n answers and choose by cumulative_logprob",
    "encode": _GENERATES,
    "embed": _GENERATES,
    "classify": _GENERATES,
    "reward": _GENERATES,
    "score": _GENERATES,
    "sleep": "the device is never put to sleep; close it, and start another",
    "wake_up": "the device is never put to sleep",
    "set_tokenizer": "start with tokenizer=FOLDER",
    "collective_rpc": "there is one worker, which runs no code of others",
    "apply_model": "there is one worker, which runs no code of others",
    "start_profile": "octavo bench and step_log=FILE tell where time goes",
    "stop_profile": "octavo bench and step_log=FILE tell where time goes",
    "get_metrics": "metrics are in each output, and in /metrics of octavo serve",
    "add_lora": _NO_LORA,
    "update_weights": _OTHER_MODEL,
    "pause_generation": "abort(request_id) ends requests",
}
"""Attribute of vLLM's `LLM` or `AsyncLLM` to what to use instead."""


def refuse(**asked: Any) -> None:
    """Refuse every argument that asks for something: whose value is not None, False, 0, or empty or full of such.

    Raises:
        RequestError: `param` names it.
    """
    for name, value in asked.items():
        if isinstance(value, list | tuple) and not any(value):
            continue
        if value is not None and value is not False and value != 0 and value != {}:
            raise RequestError(f"{name} is not served: {ARGUMENTS[name]}", param=name)


def missing(kind: str, name: str) -> NoReturn:
    """Raise AttributeError for attribute `name` of an object of the class `kind`."""
    instead = f": {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
    raise AttributeError(f"{kind!r} object has no attribute {name!r}{instead}")
