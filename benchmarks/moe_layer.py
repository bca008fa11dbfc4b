"""The FP8 expert layer under graph replay: our time, vLLM's where it is installed, and the floor of the card.

    python -m benchmarks.moe_layer                       Qwen3-30B-A3B's shape, one scale per channel
    python -m benchmarks.moe_layer --shape mixtral-8x7b --format block --tokens 1,64,8192

From bf16 hidden states and top-k ids to bf16 output. Each graph holds several calls with different tokens and routing,
so that small batches do not find their experts in the cache. The floor is the larger of two times: bytes of the touched
experts over the measured copy rate, and operations over the measured FP8 rate. A peer that does not run is "failed" in
the table, and the reason stands in the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
import sys
import traceback

import torch

from benchmarks import against
from benchmarks.measurement import CUDA, Timing, copy_rate, fp8_rate, replay
from benchmarks.moe_peers import Build, Call, Inputs, configured, peer_calls
from benchmarks.provenance import write_result
from octavo.ops.activations import FP8, blocks
from octavo.ops.experts.grouped_gemm import Tiles, choose_tiles
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.formats import Fp8Block, Fp8Channel, Weights
from octavo.ops.persistent import runs_persistent_kernels

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
SHAPES = {
    "qwen3-30b-a3b": (128, 8, 2048, 768),
    "mixtral-8x7b": (8, 2, 4096, 14336),
    "olmoe-1b-7b": (64, 8, 2048, 1024),
    "glm-4.5-air": (128, 8, 4096, 1408),
    "qwen3-next-80b-a3b": (512, 10, 2048, 512),
    "qwen3.6-35b-a3b": (256, 8, 2048, 512),
}
FORMATS = ["channel", "block"]


def random_weights(kind: str, experts: int, parts: int, rows: int, cols: int) -> Weights:
    """Random FP8 codes with scales that make outputs O(1); not zeros, which run faster than data.

    The scales differ, so that a layer that takes one for another gives other values.
    """
    codes = torch.empty((experts, parts * rows, cols), dtype=FP8, device=CUDA)
    for expert in range(experts):
        codes[expert] = (torch.randn((parts * rows, cols), device=CUDA) * 100).clamp(-448, 448).to(FP8)
    scales = (parts * rows,) if kind == "channel" else (parts * blocks(rows), blocks(cols))
    scale = (torch.rand((experts, *scales), device=CUDA) + 0.5) / (100 * cols**0.5)
    return Fp8Channel(codes, scale) if kind == "channel" else Fp8Block(codes, scale)


def draw(tokens: int, shape: tuple[int, int, int, int]) -> Inputs:
    """Tokens with a mildly uneven routing, as a router's softmax of uniform logits gives."""
    experts, top_k, hidden, _ = shape
    weights, ids = torch.softmax(torch.rand((tokens, experts), device=CUDA) * 4, -1).topk(top_k, dim=1)
    x = torch.randn((tokens, hidden), dtype=torch.bfloat16, device=CUDA)
    return Inputs(x, ids.to(torch.int32), weights / weights.sum(-1, keepdim=True))


def floor_us(inputs: list[Inputs], shape: tuple[int, int, int, int], copy: float, fp8: float) -> float:
    """The time below which no implementation runs, in microseconds."""
    _, top_k, hidden, intermediate = shape
    touched = statistics.mean(len(torch.unique(one.ids)) for one in inputs)
    tokens = len(inputs[0].x)
    moved = touched * 3 * hidden * intermediate + tokens * hidden * 4
    operations = tokens * top_k * 6 * hidden * intermediate
    return max(moved / copy, operations / fp8) * 1e6


def our_tiles(assignments: int, down: Weights) -> Tiles:
    """The tiles that a layer on this device takes by itself."""
    shape = (type(down).__name__, *down.data.shape)
    return choose_tiles(shape, assignments, persistent=runs_persistent_kernels(down.data.device))


def our_calls(inputs: list[Inputs], gate_up: Weights, down: Weights, tiles: Tiles | None = None) -> list[Call]:
    """One call for each input, with one workspace."""
    tokens, top_k = inputs[0].ids.shape
    workspace = moe_workspace(tokens, top_k, gate_up, down)

    def call(one: Inputs) -> Call:
        out, flags = torch.empty_like(one.x), torch.empty((tokens,), dtype=torch.bool, device=CUDA)
        return lambda: moe(
            one.x, one.ids, one.weights, gate_up, down, workspace=workspace, out=out, flags=flags, tiles=tiles
        )

    return [call(one) for one in inputs]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One batch size: our time, the floor in microseconds, each peer's time and its relative difference from our output.

    refused: why a peer has no time. tiles: of our two products.
    """

    tokens: int
    ours: Timing
    floor: float
    peers: dict[str, Timing]
    differences: dict[str, float]
    refused: dict[str, str]
    tiles: str = ""

    def names(self) -> list[str]:
        """All peers, in the order of their columns."""
        return sorted({*self.peers, *self.refused})

    def row(self) -> list[object]:
        """Cells of the table."""
        ours = self.ours
        cells: list[object] = [self.tokens, f"{ours.median:.1f}", f"{ours.low:.1f} to {ours.high:.1f}"]
        cells += [f"{self.floor:.1f}", f"{self.floor / ours.median:.2f}"]
        for name in self.names():
            peer = self.peers.get(name)
            cells += [f"{peer.median:.1f}", f"{ours.median / peer.median:.2f}"] if peer else ["failed", "failed"]
        return cells

    def columns(self) -> list[str]:
        """Heads of the cells."""
        heads = ["T", "us", "10th to 90th percentile", "floor, us", "share of the floor"]
        return heads + [head for name in self.names() for head in (name, f"ours / {name}")]


def reason(error: Exception) -> str:
    """Kind and first line of an error, without the folders of this machine."""
    lines = str(error).strip().splitlines() or ["no message"]
    line = re.sub(r"/(?:[^\s/:]+/)+", "", lines[0])
    return f"{type(error).__name__}: {line[:300]}"


def time_peer(build: Build, replays: int) -> tuple[torch.Tensor, Timing]:
    """A peer's output for the first input, (T, H) f32, and its time."""
    with torch.cuda.stream(torch.cuda.current_stream()), configured():  # a capture that fails leaves its stream current
        calls = build()
        output = calls[0]().float()
        torch.cuda.synchronize()
        return output, replay(calls, replays)


def measure(
    tokens: int, shape: tuple[int, int, int, int], gate_up: Weights, down: Weights, copy: float, fp8: float
) -> Measurement:
    """Time all layers on the same inputs, and look whether they agree. A peer that raises is refused.

    Raises: AssertionError where a peer's output differs by more than 10 %: then one of the two is wrong.
    """
    inputs = [draw(tokens, shape) for _ in range(8 if tokens <= 256 else 2)]
    replays = 50 if tokens <= 4096 else 20
    tiles = our_tiles(inputs[0].ids.numel(), down)
    ours = our_calls(inputs, gate_up, down, tiles)
    right = ours[0]().float()
    found = Measurement(tokens, replay(ours, replays), floor_us(inputs, shape, copy, fp8), {}, {}, {}, str(tiles))
    for name, build in peer_calls(inputs, gate_up, down).items():
        try:
            output, timing = time_peer(build, replays)
        except Exception as error:  # whatever a peer raises, the others have their turn
            traceback.print_exc()
            found.refused[name] = reason(error)
            print(f"{name} failed at T={tokens}: {found.refused[name]}", file=sys.stderr, flush=True)
            continue
        difference = float((output - right).norm() / right.norm())
        assert difference < 0.1, f"{name} differs by {difference:.3f} at T={tokens}"
        found.differences[name], found.peers[name] = difference, timing
    return found


def device_lost() -> bool:
    """Whether a fault has left this process without the device."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def failures(found: list[Measurement]) -> str:
    """What the conditions say about peers that failed; empty if none did."""
    first: dict[str, str] = {}
    for one in found:
        for name, why in one.refused.items():
            first.setdefault(name, f" {name} failed, first at T={one.tokens}: {why}.")
    return "".join(first.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--format", choices=FORMATS, default="channel")
    parser.add_argument("--tokens", type=lambda text: [int(part) for part in text.split(",")], default=SIZES)
    parser.add_argument("--name", default="moe_layer", help="file of the result in benchmarks/results")
    args = against.parse_args(parser, "moe_layer")
    torch.manual_seed(0)
    shape = SHAPES[args.shape]
    experts, top_k, hidden, intermediate = shape
    copy, fp8 = copy_rate(), fp8_rate()
    gate_up = random_weights(args.format, experts, 2, intermediate, hidden)
    down = random_weights(args.format, experts, 1, hidden, intermediate)
    found = []
    for tokens in args.tokens:
        found.append(measure(tokens, shape, gate_up, down, copy, fp8))
        print(*found[-1].row(), sep="\t", flush=True)
        if device_lost():
            print("A fault took the device: the sizes that follow are not measured", file=sys.stderr)
            break
    path = write_result(
        args.name,
        title=f"FP8 expert layer, {args.shape}, {args.format} scales",
        conditions=f"E={experts}, K={top_k}, H={hidden}, I={intermediate}, scales per {args.format}; under graph replay, from "
        "bf16 hidden states and top-k ids to bf16 output; microseconds per call. The floor uses this card's copy rate, "
        f"{copy / 1e12:.2f} TB/s, and FP8 rate, {fp8 / 1e12:.0f} TFLOP/s, measured in the same run." + failures(found),
        columns=found[0].columns(),
        rows=[one.row() for one in found],
        raw=[dataclasses.asdict(one) for one in found],
    )
    print(path.name)


if __name__ == "__main__":
    main()
