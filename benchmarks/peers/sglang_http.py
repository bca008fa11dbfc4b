"""SGLang's server with random weights, for `benchmarks.peers.over_http`; its SITE is that of `benchmarks.peers.sglang_offline`.

SGLang's /v1/completions reads texts of its detokenizer and fails without one, so it gets a tokenizer in which each id is a word.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.peers.server import HOST, parse_args, stand_in, tell
from benchmarks.peers.sglang_offline import prepare
from benchmarks.peers.workloads import BUDGET, MAX_REQUESTS


def make_tokenizer(folder: Path, model: Path) -> None:
    """Write to `folder` the config of `model` and a tokenizer of as many words as it has ids."""
    config = json.loads((model / "config.json").read_text())
    vocabulary = {f"t{number}": number for number in range(config.get("text_config", config)["vocab_size"])}
    kind = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
    made = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": kind}
    shutil.copy(model / "config.json", folder)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def serve(args: argparse.Namespace, tokenizer: Path) -> None:
    """Serve until a signal.

    Raises:
        RuntimeError: this copy of SGLang leaves its dummy weights as they are.
    """
    import sglang.srt.entrypoints.engine  # noqa: F401 - Transformers and mistral_common, which it imports, use soundfile if they find it
    from sglang.srt.model_loader import loader
    from sglang.srt.server_args import ServerArgs

    with stand_in("soundfile"):  # which reads and writes speech, and which the server imports whatever it serves
        from sglang.srt.entrypoints.http_server import launch_server

    if not hasattr(loader, "_peer_fill"):
        raise RuntimeError("the loader of this SGLang writes no random weights; see benchmarks/peers/sglang_offline.py")
    settings = {
        "model_path": str(args.model),
        "tokenizer_path": str(tokenizer),
        "host": HOST,
        "port": args.port,
        "load_format": "dummy",
        "chunked_prefill_size": BUDGET,
        "max_prefill_tokens": BUDGET,
        "max_running_requests": MAX_REQUESTS,
        "cuda_graph_max_bs_decode": MAX_REQUESTS,
        "page_size": 64,
        "attention_backend": "fa3",
        "sampling_backend": "flashinfer",
        "grammar_backend": "none",
        "random_seed": 0,
        "log_level_http": "warning",
    }
    tell(args, "SGLang", "sglang")
    launch_server(ServerArgs(**settings | args.extra))


def main() -> None:
    args = parse_args(__doc__)
    prepare()
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        make_tokenizer(Path(folder), args.model)
        serve(args, Path(folder))


if __name__ == "__main__":
    main()
