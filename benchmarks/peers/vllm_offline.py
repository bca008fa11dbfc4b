"""vLLM's offline engine, with random weights: `PYTHONPATH=SITE:. python -m benchmarks.peers.vllm_offline MODEL OUT`.

vLLM's own dummy weights are almost all zero in FP8, and zeros run faster than numbers: each weight is written over. Scales are set so
that a layer's rows keep their size.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.about import about, given
from benchmarks.peers.workloads import BUDGET, MAX_MODEL_LEN, MAX_REQUESTS, measure, parse_args

CODE = 60.0
"""Standard deviation of FP8 codes, of which the largest is 448."""
WEIGHT = 0.02
"""Of weights."""
SETTINGS = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
"""The first lets `fill` be sent to the process that has the weights."""


def fill(model: Any) -> int:
    """Write over all parameters in the process that has them; how many numbers."""
    import torch

    torch.manual_seed(0)
    count = 0
    for name, parameter in model.named_parameters():
        data = parameter.data
        if data.dtype == torch.float8_e4m3fn:
            for part in data if data.dim() == 3 else [data]:
                part.copy_((torch.randn(part.shape, device=part.device) * CODE).to(data.dtype))
        elif "scale" in name:
            if data.dtype.is_floating_point:
                data.fill_(WEIGHT / CODE)
        elif "norm" in name:
            data.fill_(1.0)
        elif data.dtype.is_floating_point:
            data.normal_(0, WEIGHT)
        count += data.numel()
    return count


def main() -> None:
    args = parse_args(__doc__)
    extra = given(args.extra)
    os.environ |= SETTINGS
    from vllm import LLM, SamplingParams

    began = time.monotonic()
    engine = LLM(
        str(args.model),
        skip_tokenizer_init=True,
        load_format="dummy",
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=MAX_REQUESTS,
        enable_prefix_caching=True,
        gpu_memory_utilization=0.85,
        seed=0,
        **args.extra,
    )
    start_s = time.monotonic() - began
    print(f"start {start_s:.0f} s; filled {engine.apply_model(fill)}", flush=True)

    def generate(prompts: list[list[int]], made: int) -> Sequence[Sequence[int]]:
        sampling = SamplingParams(temperature=0.0, max_tokens=made, ignore_eos=True, detokenize=False)
        outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    config = json.loads((args.model / "config.json").read_text())
    vocab_size = config.get("text_config", config)["vocab_size"]
    measure(generate, vocab_size, args, about("vLLM", "vllm", extra) | {"start_s": start_s})


if __name__ == "__main__":
    main()
