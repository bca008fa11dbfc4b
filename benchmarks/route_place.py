"""Routing and placing a few tokens, in one launch and in two, under graph replay: `python -m benchmarks.route_place`.

From router logits to the tiles of the experts' products, at the shapes of three models; both ways must give the same bits. Each graph holds
calls on logits of their own behind one another, as the kernels of a step are.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator

import torch

from benchmarks import against
from benchmarks.moe_layer import CUDA, Timing, replay
from benchmarks.provenance import write_result
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.experts.route import Routing, route
from octavo.ops.experts.route_place import route_place
from octavo.ops.experts.rules import RoutingRule, SigmoidRule, SoftmaxRule

TOKENS = [1, 2, 4, 8, 16]
CALLS, REPLAYS = 64, 50
TILE_ROWS = 16
COLUMNS = [
    "rule",
    "T",
    "one launch, us",
    "10th to 90th percentile",
    "two launches, us",
    "10th to 90th percentile",
    "one / two",
]

Both = tuple[Routing, Permutation]


def rules(device: torch.device) -> dict[str, tuple[RoutingRule, int]]:
    """Model to its rule and number of experts."""
    return {
        "Qwen3-30B-A3B": (SoftmaxRule(8, True), 128),
        "Qwen3.6-35B-A3B": (SoftmaxRule(8, True), 256),
        "GLM-4.5-Air": (SigmoidRule(8, True, torch.zeros(128, device=device)), 128),
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """Some tokens of one router, and room for what is made of them; all tokens are in use, as the device says."""

    logits: torch.Tensor
    rule: RoutingRule
    out: Routing
    permutation: Permutation
    rows_in_use: torch.Tensor

    @classmethod
    def draw(cls, tokens: int, rule: RoutingRule, experts: int, device: torch.device) -> Case:
        """Logits as of a normal distribution; memory that holds -1."""
        permutation = Permutation.allocate(tokens * rule.top_k, experts, device)
        for tensor in (permutation.order, permutation.tiles):
            tensor.fill_(-1)
        return cls(
            torch.randn((tokens, experts), device=device),
            rule,
            Routing.allocate(tokens, rule.top_k, device),
            permutation,
            torch.tensor([tokens], dtype=torch.int32, device=device),
        )

    def in_one(self) -> Both:
        """As an expert layer does it."""
        return route_place(
            self.logits, self.rule, tile_rows=TILE_ROWS, rows_in_use=self.rows_in_use,
            out=self.out, permutation=self.permutation,
        )  # fmt: skip

    def in_two(self) -> Both:
        """One operation after the other."""
        routing = route(self.logits, self.rule, out=self.out)
        experts = self.logits.shape[1]
        return routing, permute(
            routing.ids, experts, tile_rows=TILE_ROWS, rows_in_use=self.rows_in_use, out=self.permutation
        )

    def check(self) -> None:
        """Compare both ways. Raises: AssertionError where a bit differs."""
        one, two = (copies(way()) for way in (self.in_one, self.in_two))
        for name, right in two.items():
            assert torch.equal(one[name], right), f"{len(self.logits)} tokens of {self.rule}: {name} differ"


def copies(both: Both) -> dict[str, torch.Tensor]:
    """Copies of all that is written, by name."""
    routing, permutation = both
    names = ("order", "offsets", "tiles", "num_tiles")
    return {name: tensor.clone() for name, tensor in vars(routing).items()} | {
        name: getattr(permutation, name).clone() for name in names
    }


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Microseconds of a call, both ways."""

    name: str
    tokens: int
    one: Timing
    two: Timing

    def row(self) -> list[object]:
        """Cells of the table."""
        cells: list[object] = [self.name, self.tokens]
        for timing in (self.one, self.two):
            cells += [f"{timing.median:.2f}", f"{timing.low:.2f} to {timing.high:.2f}"]
        return [*cells, f"{self.one.median / self.two.median:.2f}"]


def measure(name: str, rule: RoutingRule, experts: int) -> Iterator[Measurement]:
    """Time as many tokens as one launch takes. Raises: AssertionError where the bits of both ways differ."""
    for tokens in TOKENS:
        cases = [Case.draw(tokens, rule, experts, CUDA) for _ in range(CALLS)]
        for case in cases:
            case.check()
        ways: tuple[list[Callable[[], Both]], ...] = ([case.in_one for case in cases], [case.in_two for case in cases])
        yield Measurement(name, tokens, *(replay(calls, REPLAYS) for calls in ways))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="route_place", help="file of the result in benchmarks/results")
    args = against.parse_args(parser, "route_place")
    torch.manual_seed(0)
    found = []
    for name, (rule, experts) in rules(CUDA).items():
        for one in measure(name, rule, experts):
            found.append(one)
            print(*one.row(), sep="\t", flush=True)
    path = write_result(
        args.name,
        title="Routing and placing a few tokens",
        conditions=f"From float32 logits to ids, weights, order and tiles of {TILE_ROWS} rows; {CALLS} calls in a graph behind one another, "
        "microseconds of each.",
        columns=COLUMNS,
        rows=[one.row() for one in found],
        raw=[dataclasses.asdict(one) for one in found],
    )
    print(path.name)


if __name__ == "__main__":
    main()
