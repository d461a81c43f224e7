"""Times preparing a data set: `oxigpt prepare`, and a Python script with `datasets` and `tiktoken`, in turn.

    cargo build --release
    python bench/preparing.py --oxigpt target/release/oxigpt --text wiki.txt book.txt --megabytes 200

The texts are cut into documents of about 4 kB and repeated until there is enough, and written as Parquet or as JSON Lines. The
Python script does what build-nanogpt's `fineweb.py` does: it opens the files with `datasets`, encodes the documents in a pool of
processes, end-of-text before each, and writes shards of 16-bit tokens. Both must give the same tokens.

`datasets` first copies all documents into a cache of its own; `ratio` is of the whole time, `ratio_encoding` without that copy.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import gpt2_tokens
import numpy as np
from report import show

DOCUMENT = 4096
SHARD = 100_000_000
END_OF_TEXT = 50256


def documents(paths: list[str], megabytes: int) -> list[str]:
    """Cuts at the line end after every `DOCUMENT` characters."""
    texts = []
    for path in paths:
        text, start = Path(path).read_text(), 0
        while start < len(text):
            end = text.find("\n", start + DOCUMENT) + 1 or len(text)
            texts.append(text[start:end])
            start = end
    size = sum(len(text.encode()) for text in texts)
    # No two are the same: what is repeated has its number in front.
    return [f"{i}\n{text}" for i in range(1 + megabytes * 1_000_000 // size) for text in texts]


def write(texts: list[str], kind: str, path: Path):
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=1000)
    else:
        with path.open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def ours(oxigpt: str, kind: str, path: Path, out: Path) -> dict:
    command = [oxigpt, "prepare", kind, "--input", str(path), "--val-shard", "--shard-tokens", str(SHARD // 100)]
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - began}


def start_worker():
    global encoding
    encoding = gpt2_tokens.encoding()


def encode(document: dict) -> np.ndarray:
    tokens = np.array([END_OF_TEXT, *encoding.encode_ordinary(document["text"])])
    assert (tokens < 2**16).all()
    return tokens.astype(np.uint16)


def theirs(kind: str, path: Path, out: Path, processes: int) -> dict:
    """`fineweb.py`, in a process of its own, as it would be started."""
    command = [sys.executable, __file__, "--python-side", kind, str(path), str(out), str(processes)]
    environment = {**os.environ, "HF_HOME": str(out) + "-cache", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds = time.perf_counter() - began
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}


def python_side(kind: str, path: str, out: str, processes: str):
    began = time.perf_counter()
    from datasets import load_dataset

    loaded = load_dataset("json" if kind == "jsonl" else kind, data_files=path, split="train")
    copied = time.perf_counter() - began
    os.makedirs(out)
    shard, used, index, size = np.empty(SHARD // 100, dtype=np.uint16), 0, 0, SHARD // 100

    def save(part):
        np.save(os.path.join(out, f"{'train' if index else 'val'}_{index:06d}.npy"), part)

    with multiprocessing.Pool(int(processes), initializer=start_worker) as pool:
        for tokens in pool.imap(encode, loaded, chunksize=16):
            while used + len(tokens) >= size:
                fits = size - used
                shard[used:] = tokens[:fits]
                save(shard)
                tokens, used, index = tokens[fits:], 0, index + 1
            shard[used : used + len(tokens)] = tokens
            used += len(tokens)
    if used:
        save(shard[:used])
    print(json.dumps({"copied": copied}))


def stream(out: Path) -> np.ndarray:
    """All tokens that were written, in order: validation is the first shard."""
    paths = sorted(out.glob("val_*")) + sorted(out.glob("train_*"))
    read = lambda path: np.load(path) if path.suffix == ".npy" else np.fromfile(path, dtype="<u2", offset=1024)
    return np.concatenate([read(path) for path in paths])


def main():
    if sys.argv[1:2] == ["--python-side"]:
        return python_side(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oxigpt", required=True, help="the built program")
    parser.add_argument("--text", nargs="+", required=True, help="files of text to make documents of")
    parser.add_argument("--kind", choices=["parquet", "jsonl"], default="parquet")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        path = place / f"texts.{args.kind}"
        texts = documents(args.text, args.megabytes)
        size = sum(len(text.encode()) for text in texts)
        write(texts, args.kind, path)
        del texts
        rounds = []
        for i in range(args.rounds):
            own = ours(args.oxigpt, args.kind, path, place / f"own-{i}")
            other = theirs(args.kind, path, place / f"other-{i}", args.processes)
            rounds.append((own, other))
        tokens, others = stream(place / "own-0"), stream(place / "other-0")
        if not np.array_equal(tokens, others):
            sys.exit(f"the tokens differ: {len(tokens)} and {len(others)}")
    own, other = (median(side["seconds"] for side in sides) for sides in zip(*rounds))
    encoding = median(other["seconds"] - other["copied"] for _, other in rounds)
    result = {
        "bytes": size,
        "tokens": len(tokens),
        "oxigpt_s": own,
        "oxigpt_rounds": [own["seconds"] for own, _ in rounds],
        "python_s": other,
        "python_rounds": [other["seconds"] for _, other in rounds],
        "python_encoding_s": encoding,
        "processes": args.processes,
        "ratio": other / own,
        "ratio_encoding": encoding / own,
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
