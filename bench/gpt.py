"""GPT-2 in plain PyTorch, and one whole training step of it: the side that oxigpt is measured against.

Written to be as fast as PyTorch allows without leaving its public interface: fused attention, fused AdamW.
Parameter names are Hugging Face's (`h.0.attn.c_attn.weight`), linear weights are (out, in).

Shapes: b batch, t time, c n_embd, h n_head, d = c / h, v vocabulary.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    """Shape of a GPT. `gelu` is "tanh" (OpenAI's GPT-2) or "erf" (nanoGPT)."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50304
    bias: bool = True
    gelu: str = "tanh"
    dropout: float = 0.0

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")


class Attention(nn.Module):
    """Causal self-attention with q, k and v from one product."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.n_head, self.dropout = cfg.n_head, cfg.dropout
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=cfg.bias)
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=cfg.bias)

    def forward(self, x_btc):
        b, t, c = x_btc.shape
        qkv_3bhtd = self.c_attn(x_btc).view(b, t, 3, self.n_head, c // self.n_head).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        y_bhtd = F.scaled_dot_product_attention(*qkv_3bhtd.unbind(0), dropout_p=p, is_causal=True)
        y_btc = self.c_proj(y_bhtd.transpose(1, 2).reshape(b, t, c))
        return F.dropout(y_btc, self.dropout, self.training)


class Mlp(nn.Module):
    """Widen four times, GELU, narrow again."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.dropout = cfg.dropout
        self.approximate = {"tanh": "tanh", "erf": "none"}[cfg.gelu]
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd, bias=cfg.bias)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd, bias=cfg.bias)

    def forward(self, x_btc):
        y_btc = self.c_proj(F.gelu(self.c_fc(x_btc), approximate=self.approximate))
        return F.dropout(y_btc, self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm: each half reads a normalised copy and adds to the residual stream."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)
        self.attn = Attention(cfg)
        self.ln_2 = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)
        self.mlp = Mlp(cfg)

    def forward(self, x_btc):
        x_btc = x_btc + self.attn(self.ln_1(x_btc))
        return x_btc + self.mlp(self.ln_2(x_btc))


class Gpt(nn.Module):
    """The whole model; the classifier shares `wte`."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        self.h = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.ln_f = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """Matrices from N(0, 0.02), those that end a residual branch narrower by sqrt(2 n_layer); biases 0."""
        for name, w in self.named_parameters():
            if w.dim() >= 2:
                branch_end = name.endswith("c_proj.weight")
                w.normal_(std=0.02 / math.sqrt(2 * self.cfg.n_layer) if branch_end else 0.02)
            elif name.endswith("bias"):
                w.zero_()

    def forward(self, x_bt, y_bt):
        """Mean cross-entropy in nats of the targets `y_bt` after the tokens `x_bt`."""
        t = x_bt.shape[1]
        x_btc = self.wte(x_bt) + self.wpe.weight[:t]
        x_btc = F.dropout(x_btc, self.cfg.dropout, self.training)
        for block in self.h:
            x_btc = block(x_btc)
        logits_btv = F.linear(self.ln_f(x_btc), self.wte.weight)
        return F.cross_entropy(logits_btv.flatten(0, 1), y_bt.flatten())


def n_params(model: nn.Module) -> int:
    """Number of weights; the shared classifier counts once."""
    return sum(w.numel() for w in model.parameters())


def make_optimizer(model, lr, betas=(0.9, 0.95), weight_decay=0.1, kind="fused"):
    """AdamW that decays tensors of rank two and above only. `kind`: "fused", "foreach" or "forloop"."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=kind == "fused", foreach=kind == "foreach")


def autocast(dtype: str, device: str = "cpu"):
    """The context of a forward pass: float32 as it is, bfloat16 through autocast over float32 weights."""
    return torch.autocast(device, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def train_step(model, optimizer, x_bt, y_bt, dtype="float32", grad_clip=1.0):
    """Forward, backward, clip, update, clear. Returns the loss before the update and the norm before clipping."""
    with autocast(dtype, x_bt.device.type):
        loss = model(x_bt, y_bt)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), norm
