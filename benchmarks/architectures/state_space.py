"""Sequence models whose state has a fixed size, however long the sequence is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes
from architectures.text_decoders import RmsNorm


class Mamba(nn.Module):
    """Mamba (Gu and Dao 2023): selective state space, its scan written out for 16 tokens."""

    def __init__(self, layers: int = 2, width: int = 32, states: int = 8) -> None:
        super().__init__()
        wide = 2 * width
        self.words, self.states, self.rank = nn.Embedding(1000, width), states, max(width // 16, 1)
        self.norms = nn.ModuleList(RmsNorm(width) for _ in range(layers))
        self.into = nn.ModuleList(nn.Linear(width, 2 * wide, bias=False) for _ in range(layers))
        self.conv = nn.ModuleList(
            nn.Conv1d(wide, wide, 4, padding=3, groups=wide) for _ in range(layers)
        )
        self.select = nn.ModuleList(
            nn.Linear(wide, self.rank + 2 * states, bias=False) for _ in range(layers)
        )
        self.pace = nn.ModuleList(nn.Linear(self.rank, wide) for _ in range(layers))
        self.decay = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(layers, wide, 1))
        self.skip = nn.Parameter(torch.ones(layers, wide))
        self.out = nn.ModuleList(nn.Linear(wide, width, bias=False) for _ in range(layers))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for index, norm in enumerate(self.norms):
            y, gate = self.into[index](norm(x)).chunk(2, -1)
            y = F.silu(self.conv[index](y.transpose(1, 2))[:, :, : ids.shape[1]]).transpose(1, 2)
            x = x + self.out[index](self._scan(y, index) * F.silu(gate))
        return x @ self.words.weight.T

    def _scan(self, x: Tensor, index: int) -> Tensor:
        parts = self.select[index](x).split([self.rank, self.states, self.states], -1)
        pace = F.softplus(self.pace[index](parts[0]))
        decay = torch.exp(pace[..., None] * -torch.exp(self.decay[index]))
        drive = (pace * x)[..., None] * parts[1][:, :, None, :]
        state, found = torch.zeros_like(drive[:, 0]), []
        for step in range(16):
            state = decay[:, step] * state + drive[:, step]
            found.append((state * parts[2][:, step, None, :]).sum(-1))
        return torch.stack(found, 1) + x * self.skip[index]


class Rwkv(nn.Module):
    """RWKV-4 (Peng et al. 2023), one token: time mixing and channel mixing with carried state."""

    def __init__(self, layers: int = 6, width: int = 64) -> None:
        super().__init__()
        self.words, self.count = nn.Embedding(1000, width), layers
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        for name in ("key", "value", "gate", "out", "gate2", "out2"):
            self.add_module(
                name, nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
            )
        self.mix = nn.Parameter(torch.rand(layers, 4, width))
        self.decay = nn.Parameter(torch.randn(layers, width))
        self.bonus = nn.Parameter(torch.randn(layers, width))

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``state``: (layers, 5, batch, width): two last inputs, then the sums and their scale."""
        x, new = self.words(ids), []
        for i in range(self.count):
            y = self.norms[2 * i](x)
            key, value, gate = (
                part(y * mix + state[i, 0] * (1 - mix))
                for part, mix in zip(
                    (self.key[i], self.value[i], self.gate[i]), self.mix[i, :3], strict=True
                )
            )
            top, bottom, most = state[i, 2], state[i, 3], state[i, 4]
            high = torch.maximum(most, self.bonus[i] + key)
            old, now = torch.exp(most - high), torch.exp(self.bonus[i] + key - high)
            mixed = (old * top + now * value) / (old * bottom + now)
            x = x + self.out[i](torch.sigmoid(gate) * mixed)
            slow = most - torch.exp(self.decay[i])
            high = torch.maximum(slow, key)
            old, now = torch.exp(slow - high), torch.exp(key - high)
            z = self.norms[2 * i + 1](x)
            new.append(torch.stack([y, z, old * top + now * value, old * bottom + now, high]))
            blend = z * self.mix[i, 3] + state[i, 1] * (1 - self.mix[i, 3])
            x = x + torch.sigmoid(self.gate2[i](blend)) * self.out2[i](F.relu(blend).square())
        return self.norms[-1](x) @ self.words.weight.T, torch.stack(new)


class LinearAttention(nn.Module):
    """Linear transformer (Katharopoulos et al. 2020): causal, by cumulative sums."""

    def __init__(self, layers: int = 4, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.words, self.heads = nn.Embedding(1000, width), heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for i, qkv in enumerate(self.qkv):
            query, key, value = (p.unflatten(-1, (self.heads, -1)) for p in qkv(x).chunk(3, -1))
            query, key = F.elu(query) + 1, F.elu(key) + 1
            memory = (key[..., :, None] * value[..., None, :]).cumsum(1)
            top = torch.einsum("bshd,bshde->bshe", query, memory)
            bottom = (query * key.cumsum(1)).sum(-1, keepdim=True)
            x = self.norms[2 * i](x + (top / bottom).flatten(2))
            x = self.norms[2 * i + 1](x + self.feed[i](x))
        return x


def _ids(sizes: Sizes) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 1000, (sizes["batch"], sizes["length"]))}


def _one_token(sizes: Sizes) -> dict[str, Tensor]:
    ids = torch.randint(0, 1000, (sizes["batch"],))
    return {"ids": ids, "state": torch.rand(6, 5, sizes["batch"], 64)}


STATE_SPACE = (
    Architecture(
        "mamba", "state space", Mamba,
        lambda sizes: {"ids": torch.randint(0, 1000, (sizes["batch"], 16))},
        {"ids": {0: "batch"}}, ("logits",),
    ),
    Architecture(
        "rwkv-4", "state space", Rwkv, _one_token,
        {"ids": {0: "batch"}, "state": {2: "batch"}}, ("logits", "new_state"),
    ),
    Architecture(
        "linear-attention", "state space", LinearAttention, _ids,
        {"ids": {0: "batch", 1: "length"}}, ("hidden",),
        {"batch": BATCH, "length": Range(3, 12, 32)},
    ),
)  # fmt: skip
