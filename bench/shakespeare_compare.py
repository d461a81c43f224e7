"""nanoGPT's "cheap computer" run on Tiny Shakespeare, by oxigpt and by PyTorch in turn, for several seeds.

    $PY bench/shakespeare_compare.py --oxigpt target/release/oxigpt --data data/shakespeare-char

Wall time is that of the training steps alone on both sides; the validation loss is over the whole validation text.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def by_oxigpt(args, seed, out):
    command = [args.oxigpt, "train", "shakespeare-char-cpu", f"--dataset={args.data}", f"--seed={seed}",
               f"--max_iters={args.steps}", f"--lr_decay_iters={args.steps}", f"--eval_interval={args.steps}",
               "--eval_tokens=111360", f"--threads={args.threads}", f"--out_dir={out}"]
    if args.dtype:
        command.append(f"--dtype={args.dtype}")
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    events = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    steps = [event["step_ms"] for event in events if event["event"] == "train"]
    losses = [event["val_loss"] for event in events if event["event"] == "eval"]
    return sum(steps) / 1e3, statistics.median(steps), losses[-1]


def by_pytorch(args, seed):
    command = [sys.executable, str(Path(__file__).parent / "shakespeare.py"), "--data", args.data, "--seed", str(seed),
               "--steps", str(args.steps), "--threads", str(args.threads), "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["train_s"], result["step_ms"], result["val_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oxigpt", required=True, help="the binary")
    parser.add_argument("--data", required=True, help="what `oxigpt prepare` wrote")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1338, 1339])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="oxigpt's, if not the recipe's own; PyTorch's is float32")
    args = parser.parse_args()

    ours, theirs = [], []
    print("seed     oxigpt: train s, val loss    PyTorch: train s, val loss")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            ours.append(by_oxigpt(args, seed, f"{folder}/run"))
        theirs.append(by_pytorch(args, seed))
        print(f"{seed:5} {ours[-1][0]:18.1f} {ours[-1][2]:9.4f} {theirs[-1][0]:18.1f} {theirs[-1][2]:9.4f}", flush=True)

    def column(rows, i):
        return [row[i] for row in rows]

    ratio = statistics.median(column(theirs, 0)) / statistics.median(column(ours, 0))
    print(f"mean validation loss: oxigpt {statistics.mean(column(ours, 2)):.4f}, "
          f"PyTorch {statistics.mean(column(theirs, 2)):.4f}")
    print(f"ratio of median wall times, PyTorch / oxigpt: {ratio:.2f}")


if __name__ == "__main__":
    main()
