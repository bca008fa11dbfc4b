"""Gates under graph replay: `python -m benchmarks.gates`.

At the shapes of Qwen3.6-35B-A3B, and of the dense layer of GLM-4.5-Air, beside the floor: the bytes that must be moved at the rate at
which this card copies. Each is first compared with float64. The calls of a graph have rows of their own, together more than the L2 cache
holds; few rows, of which no graph has so many calls, are in the cache, as they are in a step behind the kernel that makes them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable

import torch

from benchmarks import against
from benchmarks.measurement import COLUMNS, CUDA, Measurement, copy_rate, replay
from benchmarks.provenance import write_result
from octavo.ops.gates.cuda import add_share, gate_heads, gate_norm, swiglu
from octavo.ops.gates.reference import add_share_reference, heads_reference, norm_reference, swiglu_reference

HIDDEN, SHARED, DENSE = 2048, 512, 10944
"""Columns of a row, and of the ups of a shared expert and of a dense layer."""
HEADS, WIDTH = 16, 256
"""Of attention; keys and values take as many columns as two heads, each, of one of these."""
VALUE_HEADS, VALUE_WIDTH, CHANNELS = 32, 128, 8192
"""Of Gated DeltaNet, whose channels lie before the gates of a row."""
EPS = 1e-6
ROWS = [1, 8, 64, 256, 8192]
BEYOND_CACHE = 150e6
"""Bytes that the calls of a graph move together, where they need not be more than `COPIES`."""
COPIES = 128
LIMIT = 2.0**-6
"""Of a row's error: four roundings to bf16."""

Rows = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Gate:
    """One of the operations, at one shape."""

    name: str
    draw: Callable[[int, torch.device], Rows]
    """Its tensors of so many rows."""
    call: Callable[..., torch.Tensor]
    reference: Callable[..., torch.Tensor]

    def check(self, rows: Rows, out: torch.Tensor) -> None:
        """Compare with float64. Raises: AssertionError where a row differs by more than `LIMIT`."""
        exact = self.reference(*rows)
        error = ((out.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
        assert float(error) < LIMIT, f"{self.name}: a row differs by {float(error):.3g}"


def _noise(*shape: int, device: torch.device) -> torch.Tensor:
    return torch.randn(shape, device=device).bfloat16()


def _gate_up(width: int, rows: int, device: torch.device) -> Rows:
    return (torch.randn((rows, 2 * width), device=device),)


def _normed(rows: int, device: torch.device) -> Rows:
    """The gates stand behind the channels of their row, as the projection leaves them."""
    columns = VALUE_HEADS * VALUE_WIDTH
    gates = _noise(rows, CHANNELS + columns, device=device)[:, CHANNELS:].unflatten(1, (VALUE_HEADS, VALUE_WIDTH))
    return _noise(rows, columns, device=device), gates, torch.rand(VALUE_WIDTH, device=device) + 0.5


def _heads(rows: int, device: torch.device) -> Rows:
    """A head's gates stand behind its queries, and keys and values behind all of them."""
    projected = _noise(rows, (2 * HEADS + 4) * WIDTH, device=device)
    gates = projected[:, : 2 * HEADS * WIDTH].unflatten(1, (HEADS, 2, WIDTH))[:, :, 1]
    return _noise(rows, HEADS * WIDTH, device=device), gates


def _shares(rows: int, device: torch.device) -> Rows:
    x, shared = (_noise(rows, HIDDEN, device=device) for _ in range(2))
    return x, shared, torch.randn((rows, 1), device=device)


GATES = [
    Gate("swiglu, shared expert", functools.partial(_gate_up, SHARED), swiglu, swiglu_reference),
    Gate("swiglu, dense layer", functools.partial(_gate_up, DENSE), swiglu, swiglu_reference),
    Gate(
        "norm of Gated DeltaNet",
        _normed,
        lambda x, gates, weight: gate_norm(x, gates, weight, EPS).bf16,
        functools.partial(norm_reference, eps=EPS),
    ),
    Gate("heads of attention", _heads, lambda x, gates: gate_heads(x, gates).bf16, heads_reference),
    Gate("share of the shared expert", _shares, add_share, add_share_reference),
]


def measure(gate: Gate, rows: int) -> Measurement:
    """Time calls on rows of their own. Raises: AssertionError where the first is wrong."""
    first = gate.draw(rows, CUDA)
    out = gate.call(*first)
    gate.check(first, out)
    num_bytes = sum(each.nbytes for each in (*first, out))
    copies = min(COPIES, max(2, round(BEYOND_CACHE / num_bytes)))
    calls = [
        functools.partial(gate.call, *each) for each in (first, *(gate.draw(rows, CUDA) for _ in range(copies - 1)))
    ]
    return Measurement(f"{gate.name}, {rows} rows", replay(calls, 20), num_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="gates", help="file of the result in benchmarks/results")
    args = against.parse_args(parser, "gates")
    torch.manual_seed(0)
    copied_per_s = copy_rate()
    found = []
    for gate in GATES:
        for rows in ROWS:
            found.append(measure(gate, rows))
            print(*found[-1].row(copied_per_s), sep="\t", flush=True)
    path = write_result(
        args.name,
        title="Gates at Qwen3.6-35B-A3B's shape",
        conditions=f"Shared expert of {SHARED} columns, dense layer of {DENSE} (GLM-4.5-Air), {VALUE_HEADS} heads of {VALUE_WIDTH} behind Gated "
        f"DeltaNet, {HEADS} of {WIDTH} behind attention, rows of {HIDDEN}; under graph replay. The floor is what must be read and written, at "
        f"this card's rate of {copied_per_s / 1e12:.2f} TB/s (copied, read and written); few rows are in the L2 cache.",
        columns=COLUMNS,
        rows=[one.row(copied_per_s) for one in found],
        raw=[dataclasses.asdict(one) for one in found],
    )
    print(path.name)


if __name__ == "__main__":
    main()
