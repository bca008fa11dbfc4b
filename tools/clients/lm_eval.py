"""Runs lm-evaluation-harness against a running server, with token-id prompts, echo and logprobs.

    octavo serve &
    python -m tools.clients.lm_eval --scratch DIR

Two small tasks that this writes itself: `sums_choice` asks for the likeliest of four results (loglikelihoods of prompts,
by echo), `sums_generate` lets the model write the result.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

from tools.clients.environment import make_environment, run

PACKAGE = "lm_eval[api]==0.4.13"
TOKENIZER = Path(__file__).parents[2] / "src" / "octavo" / "assets" / "octavo-tiny"
QUESTION = "<|im_start|>user\\nWhat is {{a}} + {{b}}?<|im_end|>\\n<|im_start|>assistant\\n"

CHOICE = """\
task: sums_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{question}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

GENERATE = """\
task: sums_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{question}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["<|im_end|>"], max_gen_toks: 16, temperature: 0.0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the environment and the tasks")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="octavo-tiny")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--num-questions", type=int, default=200)
    parser.add_argument("--num-concurrent", type=int, default=8)
    args = parser.parse_args()
    python = make_environment(args.scratch / "environment", [PACKAGE])
    tasks = write_tasks(args.scratch.absolute() / "tasks", args.num_questions)
    model = {
        "model": args.model,
        "base_url": f"{args.url}/v1/completions",
        "tokenizer": args.tokenizer,
        "tokenizer_backend": "huggingface",
        "tokenized_requests": True,
        "num_concurrent": args.num_concurrent,
    }
    words = [
        "--model",
        "local-completions",
        "--model_args",
        ",".join(f"{name}={value}" for name, value in model.items()),
    ]
    words += ["--tasks", "sums_choice,sums_generate", "--include_path", str(tasks), "--batch_size", "1"]
    run(
        [python, "-m", "lm_eval", *words],
        env={**os.environ, "HF_HOME": str(args.scratch / "cache"), "HF_HUB_OFFLINE": "1"},
    )


def write_tasks(folder: Path, count: int) -> Path:
    """Questions and the two task files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "sums.jsonl"
    rng = random.Random(0)
    data.write_text("".join(json.dumps(question(rng)) + "\n" for _ in range(count)))
    for name, task in (("choice", CHOICE), ("generate", GENERATE)):
        (folder / f"{name}.yaml").write_text(task.format(data=data, question=QUESTION))
    return folder


def question(rng: random.Random) -> dict[str, object]:
    """A sum with its result among three wrong ones."""
    a, b = rng.randrange(100), rng.randrange(100)
    wrong = rng.sample([a + b + off for off in (-11, -10, -9, -2, -1, 1, 2, 9, 10, 11) if a + b + off >= 0], 3)
    choices = [str(value) for value in [a + b, *wrong]]
    rng.shuffle(choices)
    return {"a": a, "b": b, "choices": choices, "answer": choices.index(str(a + b))}


if __name__ == "__main__":
    main()
