"""Times GPT-2 encoding: ours and Python's tiktoken on the same file, in turn.

    cargo build --release
    python bench/tokenizing.py target/release/oxigpt FILE

Both get the same documents of about 4 kB, run on one thread, and must give the same number of tokens.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import gpt2_tokens
import tiktoken
from report import show

DOCUMENT = 4096


def ours(command: list[str]) -> dict:
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def documents(data: bytes) -> list[str]:
    """Cuts at the line end after every `DOCUMENT` bytes, as `oxigpt bench tokenize` does."""
    texts, start = [], 0
    while start < len(data):
        end = data.find(b"\n", start + DOCUMENT) + 1 or len(data)
        texts.append(data[start:end].decode())
        start = end
    return texts


def theirs(encoding: tiktoken.Encoding, texts: list[str]) -> dict:
    start = time.perf_counter()
    tokens = sum(len(encoding.encode_ordinary(text)) for text in texts)
    return {"tokens": tokens, "seconds": time.perf_counter() - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oxigpt", help="the built program")
    parser.add_argument("file", help="a text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    encoding, data = gpt2_tokens.encoding(), Path(args.file).read_bytes()
    texts = documents(data)
    command = [args.oxigpt, "bench", "tokenize", "--json", "--threads", "1", "--input", args.file]
    rounds = [(ours(command), theirs(encoding, texts)) for _ in range(args.rounds)]
    if any(own["tokens"] != other["tokens"] for own, other in rounds):
        sys.exit("the numbers of tokens differ")
    own_rate = median(own["bytes_per_s"] for own, _ in rounds)
    rate = len(data) / median(other["seconds"] for _, other in rounds)
    result = {
        "bytes": len(data),
        "tokens": rounds[0][0]["tokens"],
        "oxigpt_bytes_per_s": own_rate,
        "tiktoken_bytes_per_s": round(rate),
        "ratio": own_rate / rate,
        "tiktoken": tiktoken.__version__,
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
