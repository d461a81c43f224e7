"""Trains nanoGPT's "cheap computer" configuration on Tiny Shakespeare characters in PyTorch.

Reports the wall time of the training steps and the loss on the whole validation split afterwards. Everything about the run
is fixed but its seed and length, so that another program's time and loss can stand beside it.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from gpt import Config, Gpt, make_optimizer, n_params, train_step
from report import peak_memory_bytes, show

MODEL = Config(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=65, bias=False, gelu="erf", dropout=0.0)
BATCH_SIZE = 12
LEARNING_RATE, MIN_LR, WARMUP_ITERS, LR_DECAY_ITERS = 1e-3, 1e-4, 100, 2000
BETAS, WEIGHT_DECAY, GRAD_CLIP = (0.9, 0.99), 0.1, 1.0
EVAL_BATCH = 64

SHARD_MAGIC, SHARD_VERSION, HEADER_BYTES = 20240520, 1, 1024


def read_shard(path: Path) -> np.ndarray:
    """Tokens of one file of u16: llm.c's layout (256 x int32 header) or nanoGPT's (no header)."""
    raw = path.read_bytes()
    if len(raw) % 2:
        sys.exit(f"{path}: {len(raw)} bytes are not a whole number of u16 tokens")
    tokens = np.frombuffer(raw, dtype="<u2")
    if len(raw) < HEADER_BYTES:
        return tokens
    magic, version, count = np.frombuffer(raw, dtype="<i4", count=3)
    if (magic, version) != (SHARD_MAGIC, SHARD_VERSION):
        return tokens
    tokens = tokens[HEADER_BYTES // 2 :]
    if len(tokens) != count:
        sys.exit(f"{path}: the header promises {count} tokens, the file holds {len(tokens)}")
    return tokens


def read_split(folder: Path, split: str) -> torch.Tensor:
    """All tokens of a split, from `SPLIT_000000.bin`... or `SPLIT.bin`."""
    paths = sorted(folder.glob(f"{split}_[0-9]*.bin")) or sorted(folder.glob(f"{split}.bin"))
    if not paths:
        sys.exit(f"{folder}: neither {split}_000000.bin nor {split}.bin is there")
    tokens = np.concatenate([read_shard(p) for p in paths]).astype(np.int64)
    if len(tokens) <= MODEL.block_size:
        sys.exit(f"{folder}: {split} has {len(tokens)} tokens, more than {MODEL.block_size} are needed")
    if tokens.max() >= MODEL.vocab_size:
        sys.exit(f"{folder}: {split} has token {tokens.max()}, the vocabulary has {MODEL.vocab_size} characters")
    return torch.from_numpy(tokens)


def learning_rate(it: int) -> float:
    """Linear warm-up, then half a cosine down to MIN_LR; `it` counts from 0."""
    if it < WARMUP_ITERS:
        return LEARNING_RATE * (it + 1) / (WARMUP_ITERS + 1)
    done = min(1.0, (it - WARMUP_ITERS) / (LR_DECAY_ITERS - WARMUP_ITERS))
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * done)) * (LEARNING_RATE - MIN_LR)


def random_batch(tokens, generator):
    """BATCH_SIZE windows that start anywhere, drawn with replacement, and their targets one token on."""
    t = MODEL.block_size
    starts = torch.randint(len(tokens) - t, (BATCH_SIZE,), generator=generator)
    rows = tokens[starts[:, None] + torch.arange(t + 1)]
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@torch.no_grad()
def validation_loss(model, tokens) -> float:
    """Mean loss over the consecutive whole windows of the split."""
    t = MODEL.block_size
    n = (len(tokens) - 1) // t
    x_nt, y_nt = tokens[: n * t].view(n, t), tokens[1 : n * t + 1].view(n, t)
    model.eval()
    total = sum(model(x, y).item() * len(x) for x, y in zip(x_nt.split(EVAL_BATCH), y_nt.split(EVAL_BATCH)))
    model.train()
    return total / n


def train(model, optimizer, tokens, steps, generator) -> float:
    """Runs the training steps; returns the loss of the last batch."""
    loss = torch.tensor(float("nan"))
    for it in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(it)
        x_bt, y_bt = random_batch(tokens, generator)
        loss, _ = train_step(model, optimizer, x_bt, y_bt, grad_clip=GRAD_CLIP)
    return loss.item()


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, metavar="DIR", help="train and val shards of characters")
    p.add_argument("--seed", type=int, default=1337)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--compile", action="store_true", help="pass the model through torch.compile")
    p.add_argument("--adamw", choices=["fused", "foreach", "forloop"], default="fused")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args()
    if args.steps < 1:
        p.error("--steps must be at least 1")
    return args


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train_tokens, val_tokens = read_split(args.data, "train"), read_split(args.data, "val")
    model = Gpt(MODEL)
    optimizer = make_optimizer(model, LEARNING_RATE, BETAS, WEIGHT_DECAY, args.adamw)
    generator = torch.Generator().manual_seed(args.seed)

    start = time.perf_counter()
    forward = torch.compile(model) if args.compile else model
    train_loss = train(forward, optimizer, train_tokens, args.steps, generator)
    seconds = time.perf_counter() - start

    result = {
        "train_s": seconds,
        "step_ms": 1e3 * seconds / args.steps,
        "tokens_per_s": args.steps * BATCH_SIZE * MODEL.block_size / seconds,
        "train_loss": train_loss,
        "val_loss": validation_loss(model, val_tokens),
        "steps": args.steps,
        "seed": args.seed,
        "n_params": n_params(model),
        "peak_memory_bytes": peak_memory_bytes(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
