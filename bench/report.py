"""What the measuring scripts share: command-line values, peak memory, and how a result is printed."""

import argparse
import json
import resource
import sys


def boolean(text: str) -> bool:
    """Reads `true` or `false`, as oxigpt's own configuration keys are written."""
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}") from None


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (libtorch itself included)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def show(result: dict, as_json: bool):
    """One JSON object, or one `key value` line for each number."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:18} {value:,.7g}" if isinstance(value, float) else f"{key:18} {value}")
