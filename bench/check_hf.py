"""Loads a checkpoint of ours with Hugging Face `transformers` and prints its loss on given tokens.

A checkpoint is a Hugging Face GPT-2 directory as it is; this shows that others agree. No network is used.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from report import show


def checkpoint_dir(path: Path) -> Path:
    """A checkpoint directory itself, or the latest checkpoint of a run directory."""
    if (path / "latest").is_file():
        path = path / "checkpoints" / (path / "latest").read_text().strip()
    if not (path / "config.json").is_file():
        sys.exit(f"{path}: no config.json here; expected a checkpoint or run directory")
    return path


def read_rows(path: Path) -> torch.Tensor:
    """Rows of token ids, all of one length: a JSON list, a list of lists, or an object with either under "tokens"."""
    try:
        tokens = json.loads(path.read_text())
        tokens = tokens["tokens"] if isinstance(tokens, dict) else tokens
        rows = torch.atleast_2d(torch.tensor(tokens))
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path}: expected a JSON list of token ids, or rows of one length: {error}")
    if rows.shape[1] < 2:
        sys.exit(f"{path}: a row needs at least two tokens: an input and its target")
    if rows.dtype != torch.long:
        sys.exit(f"{path}: token ids are integers")
    return rows


def load(path: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    """The model, every weight of which must come from the file."""
    model, info = GPT2LMHeadModel.from_pretrained(path, dtype=dtype, output_loading_info=True, local_files_only=True)
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if problems:
        sys.exit(f"{path}: weights do not match the model: {problems}")
    return model.eval()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--run", type=Path, required=True, metavar="DIR", help="checkpoint or run directory")
    p.add_argument("--tokens", type=Path, required=True, metavar="FILE.json", help="rows of T+1 ids: inputs and targets")
    p.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args()

    logging.disable_progress_bar()
    path = checkpoint_dir(args.run)
    model, rows = load(path, getattr(torch, args.dtype)), read_rows(args.tokens)
    if rows.min() < 0 or rows.max() >= model.config.vocab_size:
        sys.exit(f"{args.tokens}: ids {rows.min()} to {rows.max()}, the vocabulary has {model.config.vocab_size}")
    if rows.shape[1] - 1 > model.config.n_positions:
        sys.exit(f"{args.tokens}: rows of {rows.shape[1]} ids, the model takes at most {model.config.n_positions} + 1")
    with torch.no_grad():
        logits_btv = model(rows[:, :-1]).logits
    nll_bt = F.cross_entropy(logits_btv.transpose(1, 2), rows[:, 1:], reduction="none")
    result = {
        "checkpoint": str(path),
        "loss": nll_bt.mean().item(),
        "row_losses": nll_bt.mean(dim=1).tolist(),
        "tokens": nll_bt.numel(),
        "n_params": model.num_parameters(),
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
