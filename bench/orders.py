"""How far PyTorch's own float32 gradient norms are from float64 in the ten steps of the golden values, by the order of channels.

    python bench/orders.py

A model whose channels are in another order is the same model, but its sums round differently. AdamW's first updates divide gradients by
their own size, so rounding decides those of a weight whose gradient is about 0. `norms_of_many_orders_are_those_of_pytorch` in
crates/oxigpt-model/tests/it/golden.rs does the same with oxigpt.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

FIXTURES = Path(__file__).parent.parent / "crates/oxigpt-model/tests/fixtures"
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "sigmoid": torch.sigmoid, "square": torch.square}
N_EMBD, N_HEAD, N_HIDDEN = 32, 4, 128


def in_another_order(weights: dict, seed: int) -> dict:
    random = torch.Generator().manual_seed(seed)
    stream, hidden = (torch.randperm(n, generator=random) for n in (N_EMBD, N_HIDDEN))
    axes = {
        "attn.c_attn.weight": (stream, None),
        "attn.c_attn.bias": (None, None),
        "mlp.c_fc.weight": (stream, hidden),
        "mlp.c_fc.bias": (None, hidden),
        "mlp.c_proj.weight": (hidden, stream),
    }

    def reordered(name, x):
        rows, columns = axes.get(name.split(".", 2)[-1], (None, stream))
        x = x if rows is None else x[rows]
        return x if columns is None else x[..., columns]

    return {name: reordered(name, x).clone() for name, x in weights.items()}


def loss(p: dict, tokens: torch.Tensor, activation) -> torch.Tensor:
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    (batch, t), seen = inputs.shape, torch.tril(torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool))
    x = p["wte.weight"][inputs] + p["wpe.weight"][:t]
    norm = lambda x, name: F.layer_norm(x, (N_EMBD,), p[f"{name}.weight"], p[f"{name}.bias"])
    linear = lambda x, name: x @ p[f"{name}.weight"] + p[f"{name}.bias"]
    for layer in ("h.0", "h.1"):
        qkv = linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn").split(N_EMBD, 2)
        q, k, v = (part.view(batch, t, N_HEAD, -1).transpose(1, 2) for part in qkv)
        weights = activation(q @ k.transpose(2, 3) / math.sqrt(N_EMBD // N_HEAD)).where(seen, torch.zeros(())) / t
        x = x + linear((weights.to(v) @ v).transpose(1, 2).reshape(x.shape), f"{layer}.attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc"), approximate="tanh")
        x = x + linear(hidden, f"{layer}.mlp.c_proj")
    logits = norm(x, "ln_f") @ p["wte.weight"].T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def farthest_norm(expected: list, tokens, activation, weights: dict, dtype) -> float:
    p = {name: torch.nn.Parameter(x.to(dtype)) for name, x in weights.items()}
    groups = [
        {"params": [x for x in p.values() if x.dim() > 1], "weight_decay": 0.1},
        {"params": [x for x in p.values() if x.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    farthest = 0.0
    for step in expected:
        for group in optimizer.param_groups:
            group["lr"] = step["lr"]
        optimizer.zero_grad()
        loss(p, tokens, activation).backward()
        norm = torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item()
        optimizer.step()
        farthest = max(farthest, abs(norm / step["grad_norm"] - 1))
    return farthest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    golden = json.loads((FIXTURES / "expected.json").read_text())
    tokens = torch.tensor(golden["tokens"])
    stored = load_file(FIXTURES / "softmax.tanh.bias.safetensors")
    weights = {name: x for name, x in stored.items() if not name.startswith("expected.")}
    for name, activation in ACTIVATIONS.items():
        expected = golden["cases"][f"pointwise-{name}.tanh.bias"]["train"]
        far = lambda seed, dtype: farthest_norm(expected, tokens, activation, in_another_order(weights, seed), dtype)
        found = sorted(far(seed, torch.float32) for seed in range(1, args.orders + 1))
        beyond = sum(x > 2e-5 for x in found)
        print(f"pointwise-{name}: float64 {far(1, torch.float64):.1e}; float32 least {found[0]:.1e}, median {median(found):.1e}, "
              f"largest {found[-1]:.1e}, beyond 2e-5 in {beyond} of {args.orders} orders")


if __name__ == "__main__":
    main()
