"""Qwen2-VL in PyTorch, as small as the paper's figures need it, with six position layouts.

Names of parameters are those of published checkpoints, so `export.py` only writes them out.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

LAYOUTS = ["rope", "tad", "mrope", "videorope", "hope", "hopex"]

SHAPE = dict(n_embd=256, n_layer=4, n_head=8, n_head_kv=2, n_ff=512, v_n_embd=128, v_n_layer=3, v_n_head=4)
ROPE_BASE = 1e6


# ---- Positions -------------------------------------------------------------------------------------------------------


def place(layout, before, grid, after, scale, gaps=None):
    """Positions (n, 3) of `before` text tokens, one video (T, H, W) and `after` text tokens. `gaps` (T, whole numbers) are
    frame pairs left out before each that is there: the others are placed as if they were seen."""
    t_n, h_n, w_n = grid
    f, y, x = torch.meshgrid(torch.arange(t_n), torch.arange(h_n), torch.arange(w_n), indexing="ij")
    f, y, x = (a.reshape(-1).double() for a in (f, y, x))
    times = torch.arange(t_n).double()
    if gaps is not None:
        times = times + torch.as_tensor(gaps).cumsum(0)
    last, time = times[-1].item(), times[f.long()]
    s = float(before)
    text = lambda start, n: (start + torch.arange(n).double())[:, None].expand(-1, 3)
    if layout in ("rope", "tad"):
        index = torch.cat([torch.arange(before).double(), s + (time * h_n + y) * w_n + x, s + (last + 1) * h_n * w_n + torch.arange(after)])
        if layout == "tad":
            index = index + torch.cat([torch.arange(before).double(), s + time, s + last + 1 + torch.arange(after)])
        return index[:, None].expand(-1, 3)
    if layout == "mrope":
        video, nxt = torch.stack([s + time, s + y, s + x], 1), s + max(last + 1, h_n, w_n)
    else:
        t = s + scale * time
        video = torch.stack([t, t + y - (h_n - 1) // 2, t + x - (w_n - 1) // 2], 1)
        nxt = s + scale * last + 1
    return torch.cat([text(0.0, before), video, text(nxt, after)])


def axes(layout, head_dim):
    """Which position id drives each pair: 0 (t), 1 (h), 2 (w), or 3 (none)."""
    pairs = head_dim // 2
    s_t = pairs // (2 if layout == "hopex" else 4)
    s_h = (pairs - s_t + 1) // 2
    if layout in ("rope", "tad"):
        return [0] * pairs
    if layout == "mrope":
        return [0] * s_t + [1] * s_h + [2] * (pairs - s_t - s_h)
    return [1 + i % 2 for i in range(pairs - s_t)] + [0 if layout == "videorope" else 3] * s_t


def cos_sin(layout, head_dim, pos, base=ROPE_BASE):
    """Tables (batch, n, head_dim / 2) for positions (batch, n, 3)."""
    pairs = head_dim // 2
    theta = base ** (-torch.arange(pairs).double() / pairs)
    drivers = torch.cat([pos, torch.zeros_like(pos[..., :1])], -1)[..., axes(layout, head_dim)]
    angle = drivers * theta
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


# ---- Vision tower ----------------------------------------------------------------------------------------------------


class VisionBlock(nn.Module):
    def __init__(self, width, n_head):
        super().__init__()
        self.n_head = n_head
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x, cos, sin):
        n, p, width = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(n, p, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.attn["proj"](y.transpose(1, 2).reshape(n, p, width))
        h = self.mlp["fc1"](self.norm2(x))
        return x + self.mlp["fc2"](h * torch.sigmoid(1.702 * h))


class Merger(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, out))

    def forward(self, x):
        n, p, width = x.shape
        return self.mlp(self.ln_q(x).view(n, p // 4, 4 * width))


class VisionTower(nn.Module):
    """Patches of frame pairs (n, patches, 1176) to tokens (n, patches / 4, n_embd)."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        width = shape["v_n_embd"]
        self.head_dim = width // shape["v_n_head"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(1176, width, bias=False)})
        self.blocks = nn.ModuleList(VisionBlock(width, shape["v_n_head"]) for _ in range(shape["v_n_layer"]))
        self.merger = Merger(width, shape["n_embd"])

    def tables(self, gh, gw):
        """Angles by patch coordinates, in patch order; `gh`, `gw` count merged tokens."""
        y, x, dy, dx = torch.meshgrid(*(torch.arange(k) for k in (gh, gw, 2, 2)), indexing="ij")
        row, col = (2 * y + dy).reshape(-1).float(), (2 * x + dx).reshape(-1).float()
        quarter = self.head_dim // 4
        freq = 10000.0 ** (-torch.arange(quarter).float() / quarter)
        angle = torch.cat([row[:, None] * freq, col[:, None] * freq], 1)
        return angle.cos(), angle.sin()

    def forward(self, rows, gh, gw):
        cos, sin = self.tables(gh, gw)
        x = self.patch_embed["proj"](rows)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.merger(x)


# ---- Language model --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        n, self.n_head, self.n_kv = shape["n_embd"], shape["n_head"], shape["n_head_kv"]
        self.head_dim = n // self.n_head
        kv = self.head_dim * self.n_kv
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(n, eps=1e-6), nn.RMSNorm(n, eps=1e-6)
        self.self_attn = nn.ModuleDict({
            "q_proj": nn.Linear(n, n), "k_proj": nn.Linear(n, kv), "v_proj": nn.Linear(n, kv),
            "o_proj": nn.Linear(n, n, bias=False),
        })
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(n, shape["n_ff"], bias=False), "up_proj": nn.Linear(n, shape["n_ff"], bias=False),
            "down_proj": nn.Linear(shape["n_ff"], n, bias=False),
        })

    def forward(self, x, cos, sin, counts=None):
        b, n, width = x.shape
        h = self.input_layernorm(x)
        heads = lambda name, k: self.self_attn[name](h).view(b, n, k, self.head_dim).transpose(1, 2)
        q = rotate(heads("q_proj", self.n_head), cos, sin)
        k = rotate(heads("k_proj", self.n_kv), cos, sin)
        v = heads("v_proj", self.n_kv)
        group = self.n_head // self.n_kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        if counts is not None:
            # exp(s + log c) = c exp(s): one dimension more, so that the mask stays the causal one. Three of one size are fast.
            one = torch.full_like(q[..., :1], math.sqrt(self.head_dim))
            more = counts.log().to(k.dtype)[:, None, :, None].expand(b, self.n_head, n, 1)
            q, k, v = torch.cat([q, one], -1), torch.cat([k, more], -1), F.pad(v, (0, 1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(self.head_dim))[..., : self.head_dim]
        x = x + self.self_attn["o_proj"](y.transpose(1, 2).reshape(b, n, width))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


class LanguageModel(nn.Module):
    def __init__(self, layout, n_vocab, shape=SHAPE, base=ROPE_BASE):
        super().__init__()
        self.layout, self.base, self.head_dim = layout, base, shape["n_embd"] // shape["n_head"]
        self.embed_tokens = nn.Embedding(n_vocab, shape["n_embd"])
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape["n_layer"]))
        self.norm = nn.RMSNorm(shape["n_embd"], eps=1e-6)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = math.sqrt(2 * shape["n_layer"]) if "o_proj" in name or "down_proj" in name else 1.0
                nn.init.normal_(p, std=0.05 if "embed" in name else 1 / math.sqrt(p.shape[1]) / deep)
            elif "bias" in name:
                nn.init.zeros_(p)

    def forward(self, x, pos, wanted, counts=None):
        """Logits at the `wanted` places (flat index) of embeddings (batch, n, n_embd) with positions (batch, n, 3). With
        `counts` (batch, n) a token is looked at as if it were there so many times."""
        cos, sin = (table[:, None] for table in cos_sin(self.layout, self.head_dim, pos, self.base))
        for block in self.layers:
            x = block(x, cos, sin, counts)
        x = self.norm(x.reshape(-1, x.shape[-1])[wanted])
        return x @ self.embed_tokens.weight.T
