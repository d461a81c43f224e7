"""Times whole training steps of a GPT in PyTorch: forward, backward, clipping, AdamW, clearing.

The tokens are random and the same in every step, so that nothing but the step is timed.
"""

import argparse
import time
from statistics import median

import torch

from gpt import Config, Gpt, make_optimizer, n_params, train_step
from report import boolean, peak_memory_bytes, show


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--n_layer", type=int, default=12)
    p.add_argument("--n_head", type=int, default=12)
    p.add_argument("--n_embd", type=int, default=768)
    p.add_argument("--block_size", type=int, default=1024)
    p.add_argument("--vocab_size", type=int, default=50304)
    p.add_argument("--batch_size", type=int, default=4)
    p.add_argument("--bias", type=boolean, default=True, metavar="true|false")
    p.add_argument("--gelu", choices=["tanh", "erf"], default="tanh")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--precision", choices=["highest", "high"], default="highest", help="high: TF32 on a GPU")
    p.add_argument("--compile", action="store_true", help="pass the model through torch.compile")
    p.add_argument("--adamw", choices=["fused", "foreach", "forloop"], default="fused")
    p.add_argument("--steps", type=int, default=10, help="timed steps")
    p.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1337)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args()
    if args.steps < 1 or args.warmup < 0:
        p.error("--steps must be at least 1, --warmup at least 0")
    if args.n_embd % args.n_head:
        p.error(f"--n_embd {args.n_embd} is not a multiple of --n_head {args.n_head}")
    return args


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision(args.precision)
    cfg = Config(args.n_layer, args.n_head, args.n_embd, args.block_size, args.vocab_size, args.bias, args.gelu, args.dropout)
    model = Gpt(cfg).to(args.device)
    optimizer = make_optimizer(model, lr=6e-4, kind=args.adamw)
    tokens = torch.randint(cfg.vocab_size, (args.batch_size, cfg.block_size + 1), device=args.device)
    x_bt, y_bt = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    forward = torch.compile(model) if args.compile else model

    step_ms = []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        loss, norm = train_step(forward, optimizer, x_bt, y_bt, args.dtype)
        if args.device == "cuda":
            torch.cuda.synchronize()
        step_ms.append(1e3 * (time.perf_counter() - start))

    timed = step_ms[args.warmup :]
    result = {
        "step_ms": median(timed),
        "step_ms_min": min(timed),
        "step_ms_max": max(timed),
        "tokens_per_s": 1e3 * x_bt.numel() / median(timed),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else peak_memory_bytes(),
        "n_params": n_params(model),
        "loss": loss.item(),
        "grad_norm": norm.item(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    show(result, args.json)


if __name__ == "__main__":
    main()
