"""Runs lm-evaluation-harness against a running server: token-id prompts, echo and logprobs; or with --chat, chat completions.

    octavo serve &
    python -m tools.clients.lm_eval --scratch DIR

Small tasks that this writes itself: `sums_choice` asks for the likeliest of four results (loglikelihoods of prompts,
by echo), `sums_generate` lets the model write the result, `sums_chat` does so in a chat.
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
PLAIN = "What is {{a}} + {{b}}?"
QUESTION = f"<|im_start|>user\\n{PLAIN}<|im_end|>\\n<|im_start|>assistant\\n"

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
task: {task}
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
    parser.add_argument("--chat", action="store_true", help="the task for chat completions instead")
    args = parser.parse_args()
    python = make_environment(args.scratch / "environment", [PACKAGE])
    tasks = write_tasks(args.scratch.absolute() / "tasks", args.num_questions)
    route = "chat/completions" if args.chat else "completions"
    model = {"model": args.model, "base_url": f"{args.url}/v1/{route}", "num_concurrent": args.num_concurrent}
    if not args.chat:
        model |= {"tokenizer": args.tokenizer, "tokenizer_backend": "huggingface", "tokenized_requests": True}
    told = ",".join(f"{name}={value}" for name, value in model.items())
    words = ["--model", "local-chat-completions" if args.chat else "local-completions", "--model_args", told]
    words += (
        ["--tasks", "sums_chat", "--apply_chat_template"] if args.chat else ["--tasks", "sums_choice,sums_generate"]
    )
    words += ["--include_path", str(tasks), "--batch_size", "1"]
    run(
        [python, "-m", "lm_eval", *words],
        env={**os.environ, "HF_HOME": str(args.scratch / "cache"), "HF_HUB_OFFLINE": "1"},
    )


def write_tasks(folder: Path, count: int) -> Path:
    """Questions and the task files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "sums.jsonl"
    rng = random.Random(0)
    data.write_text("".join(json.dumps(question(rng)) + "\n" for _ in range(count)))
    for name, task, question_ in (
        ("sums_choice", CHOICE, QUESTION),
        ("sums_generate", GENERATE, QUESTION),
        ("sums_chat", GENERATE, PLAIN),
    ):
        (folder / f"{name}.yaml").write_text(task.format(task=name, data=data, question=question_))
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
