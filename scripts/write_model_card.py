"""Make the shipped directory from a checkpoint and two measurements of `measure_tiny_policy.py`.

It gets the model's files, card.json (for tests) and MODEL_CARD.md (for people).

    python scripts/write_model_card.py DIR/checkpoint --families families.json --quickstart quickstart.json \\
        --out atropos_agent/policy/embedded_model
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors import safe_open

from atropos_environments.terminal_tasks.prompts import prompt_digest

SHIPPED = (
    "config.json",
    "generation_config.json",
    "model.gguf",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
MEASURED = (
    "llama.cpp server, fp16, temperature 1, top_k 0, top_p 1, min_p 0, 8 rollouts a group, at most 8 steps"
)


def parameters_of(model: Path) -> int:
    """Number of weights in the safetensors file."""
    with safe_open(model / "model.safetensors", "numpy") as weights:
        return sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 - no mapping


def card(model: Path, families: dict, quickstart: dict) -> dict:
    """The machine-readable card."""
    progress = json.loads((model / "progress.json").read_text())
    total = quickstart["total"]
    return {
        "parameters": parameters_of(model),
        "training": progress,
        "prompt_sha256": prompt_digest(),
        "measured_with": MEASURED,
        "quickstart": {
            "tasks": sorted(kind for kind in quickstart if kind != "total"),
            "groups": total["groups"],
            "solved": total["solved"],
            "mixed": total["mixed"],
            "per_kind": {kind: row for kind, row in quickstart.items() if kind != "total"},
        },
        "families": families,
    }


def markdown(facts: dict) -> str:
    """The card for people."""
    training, quickstart = facts["training"], facts["quickstart"]
    rows = "\n".join(
        f"| {kind} | {row['groups']} | {row['solved']:.0%} | {row['mixed']:.0%} |"
        for kind, row in facts["families"].items()
    )
    chosen = "\n".join(
        f"| {kind} | {row['groups']} | {row['solved']:.0%} | {row['mixed']:.0%} |"
        for kind, row in quickstart["per_kind"].items()
    )
    return f"""# The embedded policy

A language model of {facts["parameters"] / 1e6:.2f} million parameters that knows one thing: to solve small
shell tasks of `terminal_tasks` with one tool. It exists so that the first command runs the whole job, with a
real model behind a real server, without a GPU, a download or a key. It is not an assistant: any other system
prompt, tool or kind of request gives nonsense.

## How it was made
- Trained from nothing by the steps of `{training["command"]}`, on CPU,
  one thread, {training["seconds"]:.0f} s of wall time on a busy machine: {training["steps"]} steps,
  {training["dialogues"]} dialogues, {training["tokens"]} tokens, of which {training["trained_tokens"]} are
  the assistant's and carry loss; last loss {training["loss"]:.3f}. No other model and no foreign text.
- Data: tasks of all families with fresh names and several phrasings, difficulties 1 to 3 in the first part
  and 1 to 5 in the rest; their reference solutions, every command executed and its real output recorded. One
  dialogue in twelve begins with a failing command that is not trained on. One batch in ten has another
  system prompt or other tools. The schedule goes by time, so that another run gives another, similar model.
- After the training the checks became more exact: they accept equally right answers and refuse hard links.
  `unique_lines/2` and `unpack_archive/4` draw their counts from wider ranges than the training data had.
- Architecture: `Qwen3ForCausalLM` with tied embeddings. Tokenizer: byte-level BPE learnt on the dialogues,
  Qwen2 pre-tokenizer, 2048 tokens. Template: ChatML; the Hermes tags are tokens, but not special ones.
- Files: `model.safetensors` (fp16; transformers, vLLM, SGLang) and `model.gguf` hold the same weights.
- Trained for the prompt whose SHA-256 (prompt and tool schema) is
  `{facts["prompt_sha256"]}`.
  A test fails when prompt or schema change without retraining.

## What it does
Measured on tasks whose seeds no training dialogue has, but from the same generator: the phrasings and most
words are those of training, so this says nothing of other requests. A group is mixed when its scores differ,
so that it carries a training signal. Set-up: {facts["measured_with"]}.

Quickstart: {quickstart["groups"]} groups, **{quickstart["solved"]:.1%} of rollouts solved,
{quickstart["mixed"]:.1%} of groups mixed**.

| quickstart task | groups | solved | mixed |
|---|---|---|---|
{chosen}

All families at all difficulties (few groups each: a standard error of 10 points and more per row):

| family/difficulty | groups | solved | mixed |
|---|---|---|---|
{rows}
"""


def main() -> None:
    """Parse the command line and write both cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="what train_tiny_policy.py wrote")
    parser.add_argument("--families", type=Path, required=True, help="measurement of all families")
    parser.add_argument(
        "--quickstart", type=Path, required=True, help="measurement of the quickstart's tasks"
    )
    parser.add_argument("--out", type=Path, required=True, help="the directory to ship")
    options = parser.parse_args()
    families, quickstart = (json.loads(path.read_text()) for path in (options.families, options.quickstart))
    facts = card(options.checkpoint, families, quickstart)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copyfile(options.checkpoint / name, options.out / name)
    (options.out / "card.json").write_text(json.dumps(facts, indent=2) + "\n")
    (options.out / "MODEL_CARD.md").write_text(markdown(facts))


if __name__ == "__main__":
    main()
