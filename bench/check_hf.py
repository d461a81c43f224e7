"""Shows that oxigpt and Hugging Face `transformers` read each other's models, and compute the same.

`trained`: a model that oxigpt trains is loaded by `GPT2LMHeadModel.from_pretrained`; loss and logits are compared.
`sizes`: random models of GPT-2's four sizes, saved by transformers, are loaded by oxigpt; losses are compared.

No network is used. Everything is written to a temporary folder, one model at a time.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from report import show

# n_layer, n_head, n_embd
SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
LLMC_HEADER_BYTES = 1024


def run(command: list, cwd: Path, stdin: str | None = None) -> str:
    """What a command prints; its complaint where it fails."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def load(path: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    """The model, every weight of which must come from the file."""
    model, info = GPT2LMHeadModel.from_pretrained(path, dtype=dtype, output_loading_info=True, local_files_only=True)
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if problems:
        sys.exit(f"{path}: weights do not match the model: {problems}")
    return model.eval()


def windows(tokens: np.ndarray, block_size: int, count: int) -> torch.Tensor:
    """Rows of T+1 tokens, each beginning with the last token of the row before: those that oxigpt evaluates."""
    rows = [tokens[i * block_size : i * block_size + block_size + 1] for i in range(count)]
    return torch.tensor(np.stack(rows).astype(np.int64))


@torch.no_grad()
def loss_of(model: GPT2LMHeadModel, rows: torch.Tensor) -> float:
    logits_btv = model(rows[:, :-1]).logits
    return F.cross_entropy(logits_btv.transpose(1, 2).double(), rows[:, 1:]).item()


def trained(args: argparse.Namespace, work: Path) -> dict:
    oxigpt, count, block_size = args.oxigpt.split(), 8, 128
    run([*oxigpt, "train", "demo", f"--max_iters={args.steps}", f"--eval_interval={args.steps}", "--out_dir=run"], work)
    limits = [f"--limit-windows={count}", f"--block_size={block_size}"]
    ours = json.loads(run([*oxigpt, "eval", "--from=run", "--data=stories", *limits, "--json"], work))

    checkpoint = work / "run" / "checkpoints" / (work / "run" / "latest").read_text().strip()
    shard = work / "data" / "stories" / "val_000000.bin"
    rows = windows(np.fromfile(shard, np.uint16, offset=LLMC_HEADER_BYTES), block_size, count)
    model = load(checkpoint, torch.float64)
    result = {"steps": args.steps, "tokens": ours["tokens"], "oxigpt_loss": ours["loss"], "transformers_loss": loss_of(model, rows)}
    if args.logits:
        inputs = rows[:2, :-1]
        found = torch.tensor(json.loads(run([*args.logits.split(), checkpoint], work, json.dumps(inputs.tolist()))))
        with torch.no_grad():
            expected = model(inputs).logits
        result["largest_logit"] = expected.abs().max().item()
        result["largest_logit_difference"] = (found.double() - expected).abs().max().item()
    return result


def random_model(size: str) -> GPT2LMHeadModel:
    """Random weights, larger than those that a training begins with, biases and norms among them: whatever is put in the
    wrong place shows in the loss."""
    n_layer, n_head, n_embd = SIZES[size]
    torch.manual_seed(n_layer)
    config = GPT2Config(n_layer=n_layer, n_head=n_head, n_embd=n_embd, initializer_range=0.05)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def one_size(args: argparse.Namespace, size: str, work: Path) -> dict:
    tokens = np.random.default_rng(7).integers(0, 50257, args.windows * args.block_size + 1).astype(np.uint16)
    (work / "data" / "random").mkdir(parents=True)
    for split in ["train", "val"]:
        tokens.tofile(work / "data" / "random" / f"{split}.bin")
    model = random_model(size)
    expected = loss_of(model, windows(tokens, args.block_size, args.windows))
    # The medium one in several files, with an index.
    model.save_pretrained(work / "model", max_shard_size="400MB" if size == "gpt2-medium" else "8GB")
    files = len(list((work / "model").glob("*.safetensors")))
    del model
    gc.collect()
    options = ["--from=model", "--data=random", f"--block_size={args.block_size}", "--batch_size=1", "--json"]
    ours = json.loads(run([*args.oxigpt.split(), "eval", *options], work))
    return {
        "size": size,
        "files": files,
        "windows": ours["windows"],
        "oxigpt_loss": ours["loss"],
        "transformers_loss": expected,
        "relative_difference": abs(ours["loss"] / expected - 1),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--oxigpt", default="oxigpt", metavar="CMD", help="the program, by an absolute path unless on PATH")
    p.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    commands = p.add_subparsers(dest="command", required=True)
    t = commands.add_parser("trained", help="oxigpt trains, transformers loads")
    t.add_argument("--steps", type=int, default=20)
    t.add_argument("--logits", metavar="CMD", help="the example `logits` of oxigpt-model, to compare logits too")
    s = commands.add_parser("sizes", help="transformers saves, oxigpt loads")
    s.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    s.add_argument("--windows", type=int, default=2)
    s.add_argument("--block_size", type=int, default=256)
    args = p.parse_args()

    logging.disable_progress_bar()
    if args.command == "trained":
        with tempfile.TemporaryDirectory() as work:
            show(trained(args, Path(work)), args.json)
        return
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as work:
            show(one_size(args, size, Path(work)), args.json)


if __name__ == "__main__":
    main()
