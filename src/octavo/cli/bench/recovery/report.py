"""Reports what a run under kills came to."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from typing import Any

from octavo.cli.bench.recovery.leaks import Census
from octavo.cli.bench.recovery.load import Load


@dataclasses.dataclass(frozen=True)
class Report:
    """Both runs, and what the server holds more than before the kills."""

    plain: Load
    killed: Load
    asked_kills: int
    left: Census
    gave_up: bool = False
    """The server ended before all kills were made."""

    @property
    def errors(self) -> list[str]:
        return [*self.plain.errors, *self.killed.errors]

    @property
    def passed(self) -> bool:
        """All kills were made, no request failed, no answer differs, and nothing is left."""
        kills = self.killed.kills
        well = not self.gave_up and len(kills) >= self.asked_kills and not any(self.left.values())
        return well and not self.errors and not self.killed.differing(self.plain)

    def numbers(self) -> dict[str, Any]:
        """All numbers; times in seconds."""
        recoveries = self.killed.recoveries_s()
        differing = self.killed.differing(self.plain)
        return {
            "requests": len(self.killed.outcomes),
            "failed": len(self.errors),
            "differing": differing,
            "equal": not self.errors and not differing,
            "kills": len(self.killed.kills),
            "kills_by_kind": dict(Counter(kill.kind.value for kill in self.killed.kills)),
            "kills_while_recovering": sum(kill.recovering for kill in self.killed.kills),
            "gave_up": self.gave_up,
            "recovery_median_s": statistics.median(recoveries) if recoveries else None,
            "recovery_worst_s": max(recoveries, default=None),
            "recoveries_s": recoveries,
            "left": self.left,
            "undisturbed": self.plain.tails(),
            "killed": self.killed.tails(),
            "sha256": self.plain.digest,
        }

    def lines(self) -> list[str]:
        """Makes the lines that are printed."""
        numbers = self.numbers()
        differing, left = numbers["differing"], {name: more for name, more in self.left.items() if more}
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(numbers["kills_by_kind"].items()))
        told = [
            f"Requests:        {numbers['requests']} under kills, failed {numbers['failed']} in both runs",
            f"Kills:           {numbers['kills']} ({kinds}), {numbers['kills_while_recovering']} during a recovery",
            f"Answers:         {f'{differing} DIFFER from' if differing else 'the same as'} the undisturbed run's",
            f"Left behind:     {', '.join(f'{more} {name}' for name, more in left.items()) or 'nothing'}",
        ]
        if numbers["recoveries_s"]:
            median, worst = numbers["recovery_median_s"], numbers["recovery_worst_s"]
            told.append(
                f"Recovery (s):    median {median:.2f}, worst {worst:.2f}, from the kill to the next token of anybody"
            )
        told.append("Seconds          undisturbed  with kills")
        for name, before in numbers["undisturbed"].items():
            told.append(f"{name:<16} {before:>11.3f} {numbers['killed'][name]:>11.3f}")
        if self.gave_up:
            told.append("The server has given up: start it with a --max-worker-restarts above the number of kills")
        return told
