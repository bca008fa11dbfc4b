"""Exact match by task on the held-out set, through Octavo: `python tools/tiny/score.py [--format fp8|bf16|both]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if not __package__:
    # run as a script: packages are found from the repository's root, not beside this file
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.provenance import write_result

from octavo import LLM, SamplingParams
from octavo.startup import resolve_device
from tools.tiny import data, exact, export, talk
from tools.tiny.example import Example

ASSETS = Path(__file__).resolve().parents[2] / "src/octavo/assets"
FOLDER, HYBRID = ASSETS / "octavo-tiny", ASSETS / "octavo-tiny-hybrid"
LONGEST = 256
"""Most tokens of an answer, its thoughts included."""


def answers(folder: Path, examples: list[Example], device: str) -> list[str]:
    """What the model in `folder` says to each question, greedily."""
    prompts = [{"prompt_token_ids": example.prompt()} for example in examples]
    with LLM(str(folder), device=device) as llm:
        outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=LONGEST))
    return [output.outputs[0].text for output in outputs]


def scores(folder: Path, examples: list[Example], device: str) -> dict[str, float]:
    """Share of exact answers: all, then by task."""
    said = answers(folder, examples, device)
    right = [text == example.written() for text, example in zip(said, examples, strict=True)]
    return {"all": sum(right) / len(right), **exact.by_task(examples, right)}


def table(result: dict[str, dict[str, float]]) -> str:
    """One line per task, one column per format."""
    names = list(result)
    lines = [f"{'task':20s}" + "".join(f"{name:>9s}" for name in names)]
    for task in result[names[0]]:
        lines.append(f"{task:20s}" + "".join(f"{100 * result[name][task]:8.1f}%" for name in names))
    return "\n".join(lines)


def save(result: dict[str, dict[str, float]], per_task: int, device: str, *, hybrid: bool) -> None:
    """Write the table with its provenance."""
    name = HYBRID.name if hybrid else FOLDER.name
    columns = ["task", *(f"{name}, %" for name in result)]
    tasks = list(next(iter(result.values())))
    write_result(
        f"tiny_{'hybrid_' if hybrid else ''}scores_{resolve_device(device)}",
        title=f"{name} on {resolve_device(device).upper()}",
        conditions=f"Exact match over {per_task} held-out questions of each task, greedy, through octavo.LLM; "
        "bf16: the same weights dequantised, activations not quantised.",
        columns=columns,
        rows=[[task, *(round(100 * scores[task], 1) for scores in result.values())] for task in tasks],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hybrid", action="store_true", help="octavo-tiny-hybrid")
    parser.add_argument("--model", type=Path, help="its folder; default: the one in the package")
    parser.add_argument("--format", choices=("fp8", "bf16", "both"), default="both")
    parser.add_argument("--per-task", type=int, default=200)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--save", action="store_true", help="write the scores to benchmarks/results, too")
    args = parser.parse_args()
    folder = args.model or (HYBRID if args.hybrid else FOLDER)
    changes = talk.HYBRID if args.hybrid else talk.TINY
    examples = data.held_out(args.per_task, exact.SEED, changes=changes)
    result: dict[str, dict[str, float]] = {}
    if args.format != "bf16":
        result["fp8"] = scores(folder, examples, args.device)
    if args.format != "fp8":
        with tempfile.TemporaryDirectory() as made:
            export.save_bf16(folder, Path(made))
            result["bf16"] = scores(Path(made), examples, args.device)
    print(table(result))
    if args.save:
        save(result, args.per_task, args.device, hybrid=args.hybrid)


if __name__ == "__main__":
    main()
