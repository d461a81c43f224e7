"""Times HellaSwag on a model of GPT-2's smallest shape: `oxigpt eval --task hellaswag`, and what the seeds do in PyTorch, in turn.

    cargo build --release
    python bench/hellaswag.py --oxigpt target/release/oxigpt --file hellaswag_val.jsonl --limit 40

The model has random weights and is saved as a Hugging Face directory, which both read. In PyTorch an item is a batch of four rows,
each the context and an ending, padded to the longest, and all logits are computed, as build-nanogpt's `hellaswag.py` has it. Both
must find the same accuracies. Only the scoring is timed, not the start of the programs.

Both score the same definition, build-nanogpt's, of the same items; `ratio` is of items a second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import gpt2_tokens
import torch
from report import show
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel


def ours(args, model: str) -> dict:
    command = [args.oxigpt, "eval", "--from", model, "--task", "hellaswag", "--file", args.file, "--json"]
    command += ["--definition", "build-nanogpt"]
    options = ["--limit", str(args.limit), "--threads", str(args.threads), "--dtype", args.dtype, *args.options]
    done = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["hellaswag"]


def rows(item: dict, encode) -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows of tokens, and which of these belong to the endings."""
    context = encode(item["ctx"])
    endings = [encode(" " + ending) for ending in item["endings"]]
    longest = len(context) + max(map(len, endings))
    tokens, mask = torch.zeros(4, longest, dtype=torch.long), torch.zeros(4, longest)
    for row, ending in enumerate(endings):
        end = len(context) + len(ending)
        tokens[row, :end] = torch.tensor(context + ending)
        mask[row, len(context) : end] = 1
    return tokens, mask


@torch.no_grad()
def theirs(args, model: GPT2LMHeadModel, items: list[dict]) -> dict:
    encode = gpt2_tokens.encoding().encode_ordinary
    right = right_norm = 0
    began = time.perf_counter()
    for item in items:
        tokens, mask = rows(item, encode)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
            logits = model(tokens).logits
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
        losses, mask = losses.view(4, -1) * mask[:, 1:], mask[:, 1:]
        sums = losses.sum(1)
        right += int(sums.argmin() == item["label"])
        right_norm += int((sums / mask.sum(1)).argmin() == item["label"])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "acc": right / len(items), "acc_norm": right_norm / len(items)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oxigpt", required=True, help="the built program")
    parser.add_argument("--file", required=True, help="a hellaswag_*.jsonl")
    parser.add_argument("--limit", type=int, default=40, help="items")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("options", nargs="*", help="more options of `oxigpt eval`, after --")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1337)
    items = [json.loads(line) for line in Path(args.file).read_text().splitlines()[: args.limit]]
    model = GPT2LMHeadModel(GPT2Config()).eval()
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        rounds = [(ours(args, place), theirs(args, model, items)) for _ in range(args.rounds)]
    for own, other in rounds:
        found = [(side["acc"], side["acc_norm"]) for side in (own, other)]
        if args.dtype == "float32" and found[0] != found[1]:
            sys.exit(f"the accuracies differ: {found}")
    own, other = (args.limit / median(side["seconds"] for side in sides) for sides in zip(*rounds))
    result = {
        "items": args.limit,
        "oxigpt_items_per_s": own,
        "oxigpt_rounds": [args.limit / own["seconds"] for own, _ in rounds],
        "pytorch_items_per_s": other,
        "pytorch_rounds": [args.limit / other["seconds"] for _, other in rounds],
        "ratio": own / other,
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
