"""SGLang's offline engine, with random weights: `PYTHONPATH=SITE:. python -m benchmarks.peers.sglang_offline MODEL OUT`.

SGLang has no call that writes over its weights, and its own dummy ones are small numbers: SITE is a copy whose loader of dummy weights
writes random ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from benchmarks.peers.about import about, given
from benchmarks.peers.workloads import BUDGET, MAX_MODEL_LEN, MAX_REQUESTS, measure, parse_args

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "SGLANG_USE_SGL_FA3_KERNEL": "1",
    "FLASHINFER_DISABLE_VERSION_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Set the environment, before SGLang is imported."""
    os.environ |= SETTINGS
    compiled = [os.path.join(folder, "_jit") for folder in sys.path if os.path.isdir(os.path.join(folder, "_jit"))]
    if compiled:  # kernels that SITE brings, so that none is compiled here
        os.environ.setdefault("TVM_FFI_CACHE_DIR", compiled[0])


def main() -> None:
    args = parse_args(__doc__)
    extra = given(args.extra)
    prepare()
    import sglang

    began = time.monotonic()
    settings = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "context_length": MAX_MODEL_LEN,
        "chunked_prefill_size": BUDGET,
        "max_prefill_tokens": BUDGET,
        "max_running_requests": MAX_REQUESTS,
        "mem_fraction_static": 0.85,
        "attention_backend": "fa3",
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "cuda_graph_max_bs_decode": MAX_REQUESTS,
        "random_seed": 0,
    }
    engine = sglang.Engine(model_path=str(args.model), **settings | args.extra)
    start_s = time.monotonic() - began
    print(f"start {start_s:.0f} s", flush=True)

    def generate(prompts: list[list[int]], made: int) -> Sequence[Sequence[int]]:
        sampling = {"temperature": 0.0, "max_new_tokens": made, "ignore_eos": True}
        return [output["output_ids"] for output in engine.generate(input_ids=prompts, sampling_params=sampling)]

    config = json.loads((args.model / "config.json").read_text())
    vocab_size = config.get("text_config", config)["vocab_size"]
    measure(generate, vocab_size, args, about("SGLang", "sglang", extra) | {"start_s": start_s})
    engine.shutdown()


if __name__ == "__main__":
    main()
