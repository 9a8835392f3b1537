"""The training loop: one thread, bf16 arithmetic on fp32 weights, a checkpoint every few minutes."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from scripts.tiny_policy.data import SLIP_SHARE, Batch, batches, encode_system, write_shards
from scripts.tiny_policy.dialogues import dialogue, system_prompts, tasks
from scripts.tiny_policy.export import save_model
from scripts.tiny_policy.model import Shape, TinyPolicy
from scripts.tiny_policy.tokenizer import train_tokenizer

TOKENIZER_DIALOGUES = 6000
AVERAGE_STEPS = 400
"""Checkpoints hold an exponential average of the weights over about this many steps."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. `seconds` is wall time of the loop; the rate falls from `decay_from` on."""

    seconds: float = 2400.0
    seed: int = 0
    batch_size: int = 32
    shards: int = 48
    matrix_lr: float = 0.02
    other_lr: float = 5e-3
    warmup_steps: int = 50
    decay_from: float = 0.5
    checkpoint_every_s: float = 240.0
    compiled: bool = True


@dataclass(slots=True)
class Progress:
    """The progress of a run so far."""

    steps: int = 0
    dialogues: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    loss: float = float("nan")
    seconds: float = 0.0


def learn_tokenizer(seed: int, vocab_size: int) -> Tokenizer:
    """A tokenizer for dialogues of `seed`, the system prompts and the turn headers."""
    rng = Random(f"tokenizer {seed}")
    prompts = system_prompts(seed, other_share=0.5)
    texts: list[str] = []
    for task in islice(tasks(seed), TOKENIZER_DIALOGUES):
        texts += [message["content"] for message, _ in dialogue(task, rng, SLIP_SHARE)]
        texts += ["system\n", "user\n", "assistant\n"]
    texts += islice(prompts, TOKENIZER_DIALOGUES // 10)
    return train_tokenizer(texts, vocab_size)


def train(shape: Shape, plan: Plan, work: Path, report: Callable[[str], None]) -> Progress:
    """Train from nothing; `work/checkpoint` holds the latest model, `work/shards` the dialogues."""
    torch.manual_seed(plan.seed)
    torch.set_num_threads(1)
    shards, checkpoint = work / "shards", work / "checkpoint"
    shards.mkdir(parents=True, exist_ok=True)
    tokenizer_file = work / "tokenizer.json"
    if not tokenizer_file.exists():
        learn_tokenizer(plan.seed, shape.vocab_size).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    # Spawned: a fork of a process in which torch has started threads can deadlock.
    feeder = multiprocessing.get_context("spawn").Process(
        target=write_shards,
        args=(tokenizer_file, shards),
        kwargs={"seed": plan.seed, "count": plan.shards},
        daemon=True,
    )
    feeder.start()
    while not (shards / "shard-000.npz").exists():
        if not feeder.is_alive():
            raise RuntimeError("the process that makes the dialogues ended early")
        time.sleep(0.5)
    model = TinyPolicy(shape)
    try:
        return _loop(model, tokenizer, plan, shards, checkpoint, report)
    finally:
        feeder.terminate()
        feeder.join()


def _loop(
    model: TinyPolicy,
    tokenizer: Tokenizer,
    plan: Plan,
    shards: Path,
    checkpoint: Path,
    report: Callable[[str], None],
) -> Progress:
    optimizers = _optimizers(model, plan)
    average = TinyPolicy(model.shape)
    average.load_state_dict(model.state_dict())
    hidden = torch.compile(model, dynamic=True) if plan.compiled else model
    stream = batches(shards, size=plan.batch_size, seed=plan.seed)
    prompts = system_prompts(plan.seed)
    progress, recent = Progress(), 0.0
    begun, saved = time.monotonic(), 0.0
    while progress.seconds < plan.seconds:
        batch = next(stream)
        prefix = torch.tensor(encode_system(tokenizer, next(prompts)))
        factor = _set_rate(optimizers, plan, progress)
        loss = _step(model, hidden, prefix, batch, optimizers)
        # At first the average follows fast, so that it forgets the initial weights.
        _follow(average, model, 1 / AVERAGE_STEPS if progress.steps > AVERAGE_STEPS else 0.05)
        if progress.steps == 0:  # the first step includes the compilation, which is not training time
            begun = time.monotonic()
        recent = loss if progress.steps == 0 else 0.98 * recent + 0.02 * loss
        progress.steps += 1
        progress.dialogues += len(batch.ids)
        progress.tokens += batch.tokens
        progress.trained_tokens += int(batch.trained.sum())
        progress.loss, progress.seconds = recent, time.monotonic() - begun
        if progress.steps % 100 == 0:
            report(
                f"{progress.seconds:.0f} s, step {progress.steps}, {progress.tokens} tokens, "
                f"loss {recent:.4f}, rate {factor:.2f}"
            )
        if progress.seconds - saved > plan.checkpoint_every_s:
            saved = progress.seconds
            _save(average, tokenizer, checkpoint, plan, progress)
    _save(average, tokenizer, checkpoint, plan, progress)
    return progress


def _step(
    model: TinyPolicy,
    hidden: Callable[[Tensor, Tensor], Tensor],
    prefix: Tensor,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
) -> float:
    ids, trained = torch.from_numpy(batch.ids), torch.from_numpy(batch.trained)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(hidden(prefix, ids[:, :-1]), ids, trained)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad()
    return loss.item()


def _optimizers(model: TinyPolicy, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    # Muon is meant for hidden matrices only; embeddings and norms need another optimizer.
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=plan.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _set_rate(optimizers: list[torch.optim.Optimizer], plan: Plan, progress: Progress) -> float:
    done = progress.seconds / plan.seconds
    factor = min(1.0, (progress.steps + 1) / plan.warmup_steps)
    factor *= min(1.0, max(0.02, (1.0 - done) / (1.0 - plan.decay_from)))
    for optimizer, rate in zip(optimizers, (plan.matrix_lr, plan.other_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    return factor


@torch.no_grad()
def _follow(average: TinyPolicy, model: TinyPolicy, share: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)


def _save(model: TinyPolicy, tokenizer: Tokenizer, folder: Path, plan: Plan, progress: Progress) -> None:
    fresh = folder.with_name(f"{folder.name}.fresh")
    save_model(model, tokenizer, fresh)
    command = f"python scripts/train_tiny_policy.py --seconds {plan.seconds:g} --seed {plan.seed} --out DIR"
    record = {"command": command, "seed": plan.seed, **asdict(progress)}
    (fresh / "progress.json").write_text(json.dumps(record, indent=2) + "\n")
    folder.mkdir(exist_ok=True)
    for path in fresh.iterdir():
        path.replace(folder / path.name)
    fresh.rmdir()
