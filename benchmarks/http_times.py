"""What loads took over HTTP: by name, as the rows of a table beside what other servers took, and in files."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import about
from benchmarks.provenance import provenance, write_result
from octavo.cli.bench.client import Outcome

COLUMNS = [
    "load",
    "sampling",
    "first token, ms",
    "10th to 90th percentile",
    "each token, ms",
    "10th to 90th percentile",
    "tok/s",
]
RATIOS = ["first token, ratio to the better", "each token, ratio to the better", "tok/s, ratio to the better"]
Range = tuple[float, float, float]
"""The median, the 10th and the 90th percentile; or, of few runs, the median, the lowest and the highest."""


@dataclasses.dataclass(frozen=True)
class Load:
    """`count` requests at once of `prompt` tokens, and `made` made."""

    count: int
    prompt: int
    made: int

    @classmethod
    def parse(cls, text: str) -> Load:
        """From COUNTxPROMPTxMADE.

        Raises:
            ValueError: that is not three numbers.
        """
        count, prompt, made = (int(part) for part in text.split("x"))
        return cls(count, prompt, made)

    def __str__(self) -> str:
        return f"{self.count} of {self.prompt} and {self.made}"


@dataclasses.dataclass(frozen=True)
class Times:
    """What a load took with one sampling, over all requests of all runs: milliseconds to the first token and for each after it, and the
    tokens per second of a run, from its first request to its last token."""

    first_ms: Range
    each_ms: Range
    rate: Range

    @classmethod
    def of(cls, load: Load, runs: Sequence[Sequence[Outcome]]) -> Times:
        """From what the requests of each run gave."""
        outcomes = [outcome for run in runs for outcome in run]
        spans = [max(o.arrivals[-1] for o in run) - min(o.started for o in run) for run in runs]
        rates = sorted(len(run) * load.made / span for run, span in zip(runs, spans, strict=True))
        return cls(
            percentiles([1000 * outcome.ttft_s for outcome in outcomes]),
            percentiles([1000 * outcome.tpot_s for outcome in outcomes]),
            (statistics.median(rates), rates[0], rates[-1]),
        )


def percentiles(values: Sequence[float]) -> Range:
    """The median, and a tenth of the values from either end."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]


def name_of(load: Load, sampling: str) -> str:
    """Under which the files of peers have what a load took."""
    return f"{load}, {sampling}"


def parse_name(name: str) -> tuple[Load, str]:
    """The load and the sampling that `name_of` named so."""
    load, _, sampling = name.partition(", ")
    count, prompt, made = (int(word) for word in load.split()[::2])
    return Load(count, prompt, made), sampling


def row(load: Load, sampling: str, times: Times) -> list[object]:
    """Cells of the table."""
    cells: list[object] = [str(load), sampling]
    for middle, low, high in (times.first_ms, times.each_ms):
        cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    return [*cells, f"{times.rate[0]:,.0f}"]


def beside(name: str, times: Times, peers: Mapping[str, Mapping[str, Times]]) -> list[object]:
    """More cells: what each of the `peers` took, and three ratios to the better of them, above 1 where it is slower than `times`."""
    if not peers:
        return []
    cells: list[object] = []
    for taken in peers.values():
        cells += _told(taken[name]) if name in taken else ["", "", ""]
    theirs = [taken[name] for taken in peers.values() if name in taken]
    if not theirs:
        return [*cells, "", "", ""]
    first = min(each.first_ms[0] for each in theirs) / times.first_ms[0]
    each_token = min(each.each_ms[0] for each in theirs) / times.each_ms[0]
    rate = times.rate[0] / max(each.rate[0] for each in theirs)
    return [*cells, f"{first:.2f}", f"{each_token:.2f}", f"{rate:.2f}"]


def _told(times: Times) -> list[str]:
    forms = ((times.first_ms, ".2f"), (times.each_ms, ".2f"), (times.rate, ",.0f"))
    return [f"{middle:{form}} ({low:{form}} to {high:{form}})" for (middle, low, high), form in forms]


def columns(peers: Mapping[str, object]) -> list[str]:
    """Names of the columns of `row` and `beside`."""
    more = [f"{peer}: {what}" for peer in peers for what in ("first token, ms", "each token, ms", "tok/s")]
    return [*COLUMNS, *more, *(RATIOS if peers else [])]


def read_peers(paths: Sequence[Path]) -> dict[str, dict[str, Times]]:
    """What `benchmarks.peers.over_http` wrote, by the name of the engine; several files of one engine, measured in parts, are one."""
    peers: dict[str, dict[str, Times]] = {}
    for path in paths:
        told = json.loads(path.read_text())
        peers.setdefault(about.name_of(told), {}).update(read_times(told["times"]))
    return peers


def read_times(told: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Times]:
    """Times by their names, as they stand in a file."""
    return {name: Times(**{what: _range(each) for what, each in values.items()}) for name, values in told.items()}


def _range(values: Sequence[float]) -> Range:
    middle, low, high = values
    return middle, low, high


class OtherResultError(Exception):
    """A result that cannot be added to: it is of something else; says of what."""


@dataclasses.dataclass
class Result:
    """What loads took, by their names, beside what they took of peers."""

    name: str
    model: str
    device: str
    repeats: int
    peers: dict[str, dict[str, Times]]
    times: dict[str, Times] = dataclasses.field(default_factory=dict)
    source: dict[str, Any] = dataclasses.field(default_factory=provenance)
    """Asked before the first load: the tree may change while it runs."""

    def take_over(self, earlier: Mapping[str, Any]) -> None:
        """Take the times of an earlier result, of this server and of peers; what is measured again has precedence.

        Raises:
            OtherResultError: it is of another commit, GPU, model, device or number of runs, or the commit is not all that there is to know.
        """
        raw, its = earlier["raw"], earlier["provenance"]
        ours = _subject(self.source, {"model": self.model, "device": self.device, "repeats": self.repeats})
        if (theirs := _subject(its, raw)) != ours:
            raise OtherResultError(f"--add: {self.name} is of {theirs}, this run of {ours}")
        if ours["commit"] == "unknown" or ours["commit"].endswith("+changes"):
            raise OtherResultError(f"--add: nobody knows whether two trees of commit {ours['commit']} are the same")
        self.times = read_times(raw["times"]) | self.times
        for peer, times in raw["peers"].items():
            self.peers[peer] = read_times(times) | self.peers.get(peer, {})
        self.source["command"] = f"{its['command']} && {self.source['command']}"

    def write(self) -> None:
        """Write the table, loads of short prompts first."""
        self.times = dict(sorted(self.times.items(), key=_in_table))
        told = " ratios above 1 where this server is faster than the better of the others;" if self.peers else ""
        write_result(
            self.name,
            title=f"Times to tokens over HTTP, {self.model}",
            conditions=f"random weights and prompts, /v1/completions streamed, all requests of a load at once (how many, of how many prompt tokens, and "
            f"how many made), nothing cached, 256 requests at a time, budget 8192, servers that were idle for some seconds; first token from the sending of the request, each token from the "
            f"first to the last; medians of all requests of {self.repeats} runs;{told} in brackets 10th to 90th percentile, and the lowest and "
            "highest rate",
            columns=columns(self.peers),
            rows=[
                [*row(*parse_name(name), times), *beside(name, times, self.peers)] for name, times in self.times.items()
            ],
            raw={
                "model": self.model,
                "device": self.device,
                "repeats": self.repeats,
                "times": _as_objects(self.times),
                "peers": {peer: _as_objects(times) for peer, times in self.peers.items()},
            },
            source=self.source,
        )


def _subject(source: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """What two results must have in common to be one."""
    return {name: source[name] for name in ("commit", "gpu")} | {
        name: raw.get(name) for name in ("model", "device", "repeats")
    }


def _in_table(item: tuple[str, Times]) -> tuple[int, int, int]:
    load, _ = parse_name(item[0])
    return load.prompt, load.made, load.count


def _as_objects(times: Mapping[str, Times]) -> dict[str, Any]:
    return {name: dataclasses.asdict(each) for name, each in times.items()}
