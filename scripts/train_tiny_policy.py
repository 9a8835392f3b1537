"""Train the embedded policy from scratch, on CPU, and write the directory that ships.

Steps (need the extra `train`, and Linux with /bin/sh):
  1. dialogues: tasks of `terminal_tasks` with their reference solutions, each command really executed;
  2. tokenizer: byte-level BPE over them, with llama.cpp's "qwen2" pre-tokenizer;
  3. training: a small Qwen3 on one thread while a second process makes dialogues;
  4. export: safetensors (fp16), tokenizer, configs, GGUF, in DIR/checkpoint, every few minutes.
`measure_tiny_policy.py` then measures a directory, and `write_model_card.py` writes its card.

    python scripts/train_tiny_policy.py --seconds 2400 --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.tiny_policy.model import Shape
from scripts.tiny_policy.training import Plan, train


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=Plan().seconds, help="wall time of the training loop"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for dialogues, tokenizer and checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-compile", action="store_true", help="skip torch.compile (no C++ compiler: 25 %% slower)"
    )
    options = parser.parse_args()
    plan = Plan(seconds=options.seconds, seed=options.seed, compiled=not options.no_compile)
    progress = train(Shape(), plan, options.out, lambda line: print(line, flush=True))
    print(progress)


if __name__ == "__main__":
    main()
