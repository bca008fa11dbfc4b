"""One layer of Gated DeltaNet as vLLM computes it: `PYTHONPATH=SITE:. python -m benchmarks.peers.vllm_delta_net OUT`.

Between the projections, at the shape of `benchmarks.delta_net`: convolution, gates, norm and rule, prompts in chunks of 64 by its Triton kernels and
decode by its kernel for single tokens, each under graph replay, with states in float32. Prompts begin without a state. Each time is printed
and written as it comes, decodes first.

The first prompts take minutes: Triton compiles and times 88 configurations of the six kernels that vLLM tunes for them (sums of gates 4,
products of keys 27, inverses 12, w and u 9, states 12, outputs 24), before a graph is captured. `TRITON_PRINT_AUTOTUNING=1` shows it. What is
compiled and chosen stays in `TRITON_CACHE_DIR`, so that a run after one that was cut off goes on from there, and both prompts share it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from vllm.third_party.flash_linear_attention.ops import chunk_gated_delta_rule
from vllm.third_party.flash_linear_attention.ops.fused_gdn_prefill_post_conv import fused_post_conv_prep
from vllm.third_party.flash_linear_attention.ops.fused_recurrent import fused_recurrent_gated_delta_rule_packed_decode
from vllm.third_party.flash_linear_attention.ops.index import prepare_chunk_indices, prepare_chunk_offsets
from vllm.v1.attention.backends.utils import compute_causal_conv1d_metadata

from benchmarks.peers.about import about

CUDA = torch.device("cuda")
KEY_HEADS, VALUE_HEADS, WIDTH, TAPS, CHUNK = 16, 32, 128, 4, 64
CHANNELS = (2 * KEY_HEADS + VALUE_HEADS) * WIDTH
PROMPTS = {"prefill 8192": [8192], "prefill 8 x 1001": [1001] * 8}
DECODES = {f"decode, {count} requests": count for count in (1, 8, 64, 256)}
STATES = 128
"""That a graph of decodes goes through at least, so that the L2 cache does not hold them."""
REPLAYS = 20


class Layer:
    """Weights, and states and histories of `count` requests; place 0 is nobody's."""

    def __init__(self, count: int) -> None:
        self.taps = torch.randn((CHANNELS, TAPS), device=CUDA).bfloat16()
        self.decay = torch.randn(VALUE_HEADS, device=CUDA) - 3.0
        self.bias = torch.randn(VALUE_HEADS, device=CUDA)
        self.states = torch.randn((count + 1, VALUE_HEADS, WIDTH, WIDTH), device=CUDA)
        self.history = torch.randn((count + 1, TAPS - 1, CHANNELS), device=CUDA).bfloat16().transpose(1, 2)

    def decode(self, places: torch.Tensor) -> Callable[[], object]:
        """A token of each request at `places`."""
        count = len(places)
        qkv, write, decay = draw_inputs(count)
        out = torch.empty((count, 1, VALUE_HEADS, WIDTH), dtype=torch.bfloat16, device=CUDA)

        def run() -> object:
            convolved = causal_conv1d_update(
                qkv.clone(), self.history, self.taps, None, "silu", conv_state_indices=places
            )
            return fused_recurrent_gated_delta_rule_packed_decode(
                mixed_qkv=convolved,
                a=decay,
                b=write,
                A_log=self.decay,
                dt_bias=self.bias,
                scale=WIDTH**-0.5,
                initial_state=self.states,
                out=out,
                ssm_state_indices=places,
                use_qk_l2norm_in_kernel=True,
            )

        return run

    def prefill(self, lengths: Sequence[int]) -> Callable[[], object]:
        """Whole prompts of these lengths, of requests from place 1 on."""
        bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        starts, places = bounds.to(CUDA), torch.arange(1, len(lengths) + 1, dtype=torch.int32, device=CUDA)
        fresh = torch.zeros(len(lengths), dtype=torch.bool, device=CUDA)
        numbers, batch, offsets = compute_causal_conv1d_metadata(bounds, device=CUDA)
        metadata = types.SimpleNamespace(nums_dict=numbers, batch_ptr=batch, token_chunk_offset_ptr=offsets)
        indices, chunk_offsets = prepare_chunk_indices(starts, CHUNK), prepare_chunk_offsets(starts, CHUNK)
        qkv, write, decay = draw_inputs(sum(lengths))

        def run() -> object:
            convolved = causal_conv1d_fn(
                qkv.transpose(0, 1),
                self.taps,
                None,
                activation="silu",
                conv_states=self.history,
                has_initial_state=fresh,
                cache_indices=places,
                query_start_loc=starts,
                metadata=metadata,
            ).transpose(0, 1)
            parts = fused_post_conv_prep(
                conv_output=convolved,
                a=decay,
                b=write,
                A_log=self.decay,
                dt_bias=self.bias,
                num_k_heads=KEY_HEADS,
                head_k_dim=WIDTH,
                head_v_dim=WIDTH,
                apply_l2norm=True,
                output_g_exp=False,
            )
            query, key, value, gate, beta = (part.unsqueeze(0) for part in parts)
            initial = self.states[places.long()]
            initial.zero_()
            out, last = chunk_gated_delta_rule(
                q=query,
                k=key,
                v=value,
                g=gate,
                beta=beta,
                initial_state=initial,
                output_final_state=True,
                cu_seqlens=starts,
                chunk_indices=indices,
                chunk_offsets=chunk_offsets,
                use_qk_l2norm_in_kernel=False,
            )
            self.states[places.long()] = last
            return out

        return run


def draw_inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the projections give of so many tokens: (tokens, channels), and two of (tokens, value heads)."""
    qkv = torch.randn((tokens, CHANNELS), device=CUDA).bfloat16()
    write, decay = torch.randn((2, tokens, VALUE_HEADS), device=CUDA).bfloat16()
    return qkv, write, decay


def replayed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds of a call in each replay of a graph of `calls`, which run before it is captured: nothing is tuned within."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    times = []
    for number in range(REPLAYS + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if number >= 3:
            times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return times


def calls_of(name: str) -> list[Callable[[], object]]:
    """What a graph holds of `name`: one prefill, or decodes that go through more states than the L2 cache holds."""
    if name in PROMPTS:
        return [Layer(len(PROMPTS[name])).prefill(PROMPTS[name])]
    count = DECODES[name]
    copies = max(1, STATES // count)
    layer = Layer(copies * count)
    places = torch.arange(1, copies * count + 1, dtype=torch.int32, device=CUDA).view(copies, count)
    return [layer.decode(each) for each in places]


def measure(out: Path, only: Sequence[str]) -> None:
    """Time all whose names begin as one of `only`; print and write to `out` each time as it comes."""
    times: dict[str, list[float]] = {}
    for name in (*DECODES, *PROMPTS):
        if name.startswith(tuple(only)):
            print(name, end=" ", flush=True)
            times[name] = replayed(calls_of(name))
            print(f"{statistics.median(times[name]):.1f} us", flush=True)
            out.write_text(json.dumps(about("vLLM", "vllm", {}) | {"us": times}, indent=2) + "\n")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file for the times, for `benchmarks.delta_net --peer`")
    parser.add_argument("--only", nargs="*", default=[""], help="how the names of what is measured begin; default: all")
    args = parser.parse_args()
    torch.manual_seed(0)
    measure(args.out, args.only)


if __name__ == "__main__":
    main()
