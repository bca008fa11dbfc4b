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
from tools.tiny import data, exact, export
from tools.tiny.example import Example

FOLDER = Path(__file__).resolve().parents[2] / "src/octavo/assets/octavo-tiny"
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


def save(result: dict[str, dict[str, float]], per_task: int, device: str) -> None:
    """Write the table with its provenance."""
    columns = ["task", *(f"{name}, %" for name in result)]
    tasks = list(next(iter(result.values())))
    write_result(
        f"tiny_scores_{resolve_device(device)}",
        title=f"octavo-tiny on {resolve_device(device).upper()}",
        conditions=f"Exact match over {per_task} held-out questions of each task, greedy, through octavo.LLM; "
        "bf16: the same weights dequantised, activations not quantised.",
        columns=columns,
        rows=[[task, *(round(100 * scores[task], 1) for scores in result.values())] for task in tasks],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--format", choices=("fp8", "bf16", "both"), default="both")
    parser.add_argument("--per-task", type=int, default=200)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--save", action="store_true", help="write the scores to benchmarks/results, too")
    args = parser.parse_args()
    examples = data.held_out(args.per_task, exact.SEED)
    result: dict[str, dict[str, float]] = {}
    if args.format != "bf16":
        result["fp8"] = scores(args.model, examples, args.device)
    if args.format != "fp8":
        with tempfile.TemporaryDirectory() as folder:
            export.save_bf16(args.model, Path(folder))
            result["bf16"] = scores(Path(folder), examples, args.device)
    print(table(result))
    if args.save:
        save(result, args.per_task, args.device)


if __name__ == "__main__":
    main()
