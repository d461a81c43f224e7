"""Runs oxigpt and PyTorch in turn with the same arguments, and prints how their step times compare.

Both commands get every argument after `--` and `--json`, and each must print one JSON object with `step_ms`. Taking turns keeps
a machine's slow drifts (heat, neighbours) from favouring one side.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

STEP = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('step.py')))}"


def step_ms(command: list[str]) -> float:
    """Runs a command and returns the `step_ms` it printed."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"{shlex.join(command)}: {error}")
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}")
    try:
        return float(json.loads(done.stdout)["step_ms"])
    except (ValueError, KeyError, TypeError):
        sys.exit(f"{shlex.join(command)}: expected one JSON object with step_ms, got {done.stdout[:200]!r}")


def compare(oxigpt_ms: list[float], pytorch_ms: list[float]) -> dict:
    """The ratio of the medians (above 1: oxigpt is faster), and the range of the rounds' own ratios."""
    ratios = [p / o for o, p in zip(oxigpt_ms, pytorch_ms)]
    return {
        "ratio": median(pytorch_ms) / median(oxigpt_ms),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "oxigpt_ms": oxigpt_ms,
        "pytorch_ms": pytorch_ms,
    }


def line(name: str, ms: list[float]) -> str:
    spread = 100 * (max(ms) - min(ms)) / median(ms)
    return f"{name:8} {median(ms):10.2f} ms/step   ({min(ms):.2f} to {max(ms):.2f}, spread {spread:.1f} %)"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--oxigpt", required=True, metavar="CMD", help="e.g. 'target/release/oxigpt bench train'")
    p.add_argument("--pytorch", default=STEP, metavar="CMD", help="default: step.py beside this script")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("shared", nargs="*", metavar="ARG", help="after --: arguments for both sides")
    args = p.parse_args()
    if args.rounds < 1:
        p.error("--rounds must be at least 1")

    times = {"oxigpt": [], "pytorch": []}
    for i in range(args.rounds):
        for name, command in ("oxigpt", args.oxigpt), ("pytorch", args.pytorch):
            times[name].append(step_ms([*shlex.split(command), *args.shared, "--json"]))
            print(f"round {i + 1}/{args.rounds}  {name:8} {times[name][-1]:10.2f} ms/step", file=sys.stderr)

    result = compare(times["oxigpt"], times["pytorch"])
    if args.json:
        print(json.dumps(result))
        return
    for name, ms in times.items():
        print(line(name, ms))
    low, high = result["ratio_min"], result["ratio_max"]
    print(f"oxigpt is {result['ratio']:.2f} x as fast as PyTorch (rounds: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
