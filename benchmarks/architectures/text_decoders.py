"""Decoders of text, one step of generation with a cache of keys and values where they have one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


class Gpt2(nn.Module):
    """GPT-2 (Radford et al. 2019): fused projection, causal mask, tanh GELU, cache per layer."""

    def __init__(self, layers: int = 12, width: int = 96, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(256, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``past``: (layers, batch, 2, heads, length, size), stacked as OpenAI's code does."""
        before, length = past.shape[4], ids.shape[1]
        places = torch.arange(before, before + length, device=ids.device)
        x, present = self.words(ids) + self.places(places), []
        later = torch.arange(before + length, device=ids.device) > places[:, None]
        for index, qkv in enumerate(self.qkv):
            parts = qkv(self.norms[2 * index](x)).chunk(3, -1)
            query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
            key = torch.cat([past[index][:, 0], key], 2)
            value = torch.cat([past[index][:, 1], value], 2)
            present.append(torch.stack([key, value], 1))
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            mixed = scores.masked_fill(later, torch.finfo(x.dtype).min).softmax(-1) @ value
            x = x + self.mix[index](mixed.transpose(1, 2).flatten(2))
            hidden = F.gelu(self.up[index](self.norms[2 * index + 1](x)), approximate="tanh")
            x = x + self.down[index](hidden)
        return self.norms[-1](x) @ self.words.weight.T, torch.stack(present)


class RmsNorm(nn.Module):
    """Zhang and Sennrich 2019: divided by the root of the mean square, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x)


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return ``x`` with rotary position embedding (Su et al. 2021), its halves as the two axes."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


class GroupedQueryAttention(nn.Module):
    """Ainslie et al. 2023: several query heads share one head of keys and values."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.size, bias=False)
        self.value = nn.Linear(width, shared * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        key = self.key(x).view(batch, length, self.shared, self.size).transpose(1, 2)
        value = self.value(x).view(batch, length, self.shared, self.size).transpose(1, 2)
        query, key = turned(query, *turn), turned(key, *turn)
        key = torch.cat([past[:, 0], key], 2)
        value = torch.cat([past[:, 1], value], 2)
        present = torch.stack([key, value], 1)
        mixed = F.scaled_dot_product_attention(
            query, self._repeated(key), self._repeated(value), attn_mask=bias
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1)), present

    def _repeated(self, x: Tensor) -> Tensor:
        batch, shared, length, size = x.shape
        times = self.heads // shared
        wide = x[:, :, None].expand(batch, shared, times, length, size)
        return wide.reshape(batch, self.heads, length, size)


class LlamaLayer(nn.Module):
    """RMSNorm, rotary grouped-query attention, SwiGLU."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.attention = GroupedQueryAttention(width, heads, shared)
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        mixed, present = self.attention(self.norm1(x), turn, past, bias)
        x = x + mixed
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), present


class Llama(nn.Module):
    """Llama (Touvron et al. 2023). With ``window``, Mistral's sliding one (Jiang et al. 2023)."""

    def __init__(self, width: int = 96, heads: int = 6, window: int = 0) -> None:
        super().__init__()
        self.window = window
        self.words = nn.Embedding(1000, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, 2) for _ in range(4))
        self.norm, self.head = RmsNorm(width), nn.Linear(width, 1000, bias=False)
        size = width // heads
        rates = 1.0 / 10000 ** (torch.arange(0, size, 2).float() / size)
        self.register_buffer("rates", rates, persistent=False)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        past_0: Tensor,
        past_1: Tensor,
        past_2: Tensor,
        past_3: Tensor,
    ) -> tuple[Tensor, ...]:
        """Each past: (batch, 2, shared heads, length, size)."""
        before, length = past_0.shape[3], ids.shape[1]
        places = torch.arange(before, before + length, device=ids.device)
        angles = places[:, None].float() * self.rates
        turn = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        distance = places[:, None] - torch.arange(before + length, device=ids.device)
        near = distance >= 0
        if self.window:
            near = near & (distance < self.window)
        seen = near[None, None] & mask[:, None, None, :].bool()
        bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        x, present = self.words(ids), []
        for layer, kept in zip(self.layers, (past_0, past_1, past_2, past_3), strict=True):
            x, new = layer(x, turn, kept, bias)
            present.append(new)
        return self.head(self.norm(x)), *present


class MixtureOfExperts(nn.Module):
    """Mixtral's block (Jiang et al. 2024): each token by its best two experts, all computed."""

    def __init__(self, experts: int = 8, width: int = 64, chosen: int = 2) -> None:
        super().__init__()
        self.chosen, self.experts = chosen, experts
        self.gate = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 4 * width) * 0.1)
        self.down = nn.Parameter(torch.randn(experts, 4 * width, width) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        weights, which = self.gate(x).softmax(-1).topk(self.chosen, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        share = torch.zeros(*x.shape[:-1], self.experts).scatter(-1, which, weights)
        hidden = F.silu(torch.einsum("bsw,ewh->besh", x, self.up))
        found = torch.einsum("besh,ehw->besw", hidden, self.down)
        return torch.einsum("besw,bse->bsw", found, share)


class ExpertsDecoder(nn.Module):
    """Causal attention and a mixture of experts, in turn."""

    def __init__(self, layers: int = 4, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.words, self.heads = nn.Embedding(1000, width), heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.experts = nn.ModuleList(MixtureOfExperts(width=width) for _ in range(layers))
        self.norms = nn.ModuleList(RmsNorm(width) for _ in range(2 * layers + 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for index, qkv in enumerate(self.qkv):
            parts = qkv(self.norms[2 * index](x)).chunk(3, -1)
            query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + mixed.transpose(1, 2).flatten(2)
            x = x + self.experts[index](self.norms[2 * index + 1](x))
        return self.norms[-1](x) @ self.words.weight.T


_IDS = {0: "batch", 1: "length"}
_RANGES = {"batch": BATCH, "length": Range(1, 4, 16), "past": Range(1, 12, 32)}


def _ids(sizes: Sizes) -> Tensor:
    return torch.randint(0, 1000, (sizes["batch"], sizes["length"]))


def _stacked_cache(sizes: Sizes) -> dict[str, Tensor]:
    return {"ids": _ids(sizes), "past": torch.randn(12, sizes["batch"], 2, 6, sizes["past"], 16)}


def _cache_per_layer(sizes: Sizes) -> dict[str, Tensor]:
    mask = torch.ones(sizes["batch"], sizes["past"] + sizes["length"], dtype=torch.long)
    mask[1:, 0] = 0
    past = {f"past_{i}": torch.randn(sizes["batch"], 2, 2, sizes["past"], 16) for i in range(4)}
    return {"ids": _ids(sizes), "mask": mask, **past}


_CACHED = {
    "ids": _IDS,
    "mask": {0: "batch", 1: "past_and_length"},
    **{f"past_{i}": {0: "batch", 3: "past"} for i in range(4)},
}
_PRESENT = ("logits", *(f"present_{i}" for i in range(4)))

TEXT_DECODERS = (
    Architecture(
        "gpt-2", "language", Gpt2, _stacked_cache,
        {"ids": _IDS, "past": {1: "batch", 4: "past"}}, ("logits", "present"), _RANGES,
    ),
    Architecture("llama", "language", Llama, _cache_per_layer, _CACHED, _PRESENT, _RANGES),
    Architecture(
        "mistral", "language", lambda: Llama(window=8), _cache_per_layer, _CACHED, _PRESENT, _RANGES
    ),
    Architecture(
        "mixture-of-experts", "language", ExpertsDecoder, lambda sizes: {"ids": _ids(sizes)},
        {"ids": _IDS}, ("logits",), {"batch": BATCH, "length": Range(2, 8, 24)},
    ),
)  # fmt: skip
