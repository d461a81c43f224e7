"""tiktoken's GPT-2 encoding without a network: its ranks are made of the list of merges that oxigpt embeds."""

from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

MERGES = Path(__file__).parent.parent / "crates/oxigpt-text/assets/gpt2_merges.bin"


def encoding() -> tiktoken.Encoding:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    tokens = [bytes([byte]) for byte in visible + [byte for byte in range(256) if byte not in visible]]
    for left, right in np.fromfile(MERGES, dtype="<u2").reshape(-1, 2):
        tokens.append(tokens[left] + tokens[right])
    ranks = {token: rank for rank, token in enumerate(tokens)}
    special = {"<|endoftext|>": len(ranks)}
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)
