"""Encoders of text: bidirectional attention over a padded sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


class SelfAttention(nn.Module):
    """Multi-head attention as BERT writes it: scaled scores plus an additive mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + bias
        mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by LayerNorm (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """BERT (Devlin et al. 2018): token, position and segment embeddings, a pooled first token."""

    def __init__(
        self, layers: int = 12, width: int = 96, heads: int = 6, words: int = 1000
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(512, width)
        self.segments, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.pooler = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.segments(segments))
        bias = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.layers:
            x = layer(x, bias)
        return x, torch.tanh(self.pooler(x[:, 0]))


class DistilBertForQuestions(nn.Module):
    """DistilBERT (Sanh et al. 2019) with a head for the span of an answer; no segments."""

    def __init__(self, layers: int = 6, width: int = 96, heads: int = 6) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.span = nn.Linear(width, 2)
        self.register_buffer("positions", torch.arange(512)[None], persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.words(ids) + self.places(self.positions[:, : ids.shape[1]]))
        hidden = (mask == 0)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        bias = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, -1e9)
        for layer in self.layers:
            x = layer(x, bias)
        start, end = self.span(x).split(1, dim=-1)
        return start.squeeze(-1).contiguous(), end.squeeze(-1).contiguous()


class SentenceTransformer(nn.Module):
    """Sentence-BERT (Reimers and Gurevych 2019): the mean of the unmasked tokens, normalized.

    The layers are PyTorch's own, with scaled_dot_product_attention.
    """

    def __init__(self, layers: int = 6, width: int = 96, heads: int = 6) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(512, width)
        self.heads = heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        seen = mask[:, None, None, :].bool()
        for index, qkv in enumerate(self.qkv):
            parts = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen)
            x = self.norms[2 * index](x + self.out[index](mixed.transpose(1, 2).flatten(2)))
            x = self.norms[2 * index + 1](x + self.down[index](F.gelu(self.up[index](x))))
        weights = mask[:, :, None].float()
        mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return F.normalize(mean, p=2.0, dim=1)


class AlibiEncoder(nn.Module):
    """Attention with linear biases (Press et al. 2021): distance costs score, by head."""

    def __init__(self, layers: int = 6, width: int = 96, heads: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes[:, None, None])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        place = torch.arange(ids.shape[1], device=ids.device)
        bias = -(place[None, :] - place[:, None]).abs()[None] * self.slopes
        for layer in self.layers:
            x = layer(x, bias)
        return x


class TransformerXl(nn.Module):
    """Transformer-XL (Dai et al. 2019): memory of the last segment, relative positions by shift."""

    def __init__(self, layers: int = 4, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.words = nn.Embedding(1000, width)
        self.query = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.pair = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.place = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.content = nn.Parameter(torch.randn(heads, 1, self.size))
        self.relative = nn.Parameter(torch.randn(heads, 1, self.size))
        self.register_buffer("rates", 1 / 10000 ** (torch.arange(0, width, 2) / width))

    def forward(self, ids: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, kept = self.words(ids), []
        length, total = ids.shape[1], memory.shape[2] + ids.shape[1]
        angles = torch.arange(total, device=ids.device).flip(0)[:, None] * self.rates
        places = torch.cat([angles.sin(), angles.cos()], -1)
        now = torch.arange(memory.shape[2], total, device=ids.device)
        later = torch.arange(total, device=ids.device) > now[:, None]
        for index, query in enumerate(self.query):
            kept.append(x)
            context = torch.cat([memory[index], x], 1)
            q = self._split(query(x))
            key, value = map(self._split, self.pair[index](context).chunk(2, -1))
            place = self._split(self.place[index](places)[None])
            shifted = self._shift((q + self.relative) @ place.transpose(-1, -2), length, total)
            scores = ((q + self.content) @ key.transpose(-1, -2) + shifted) / self.size**0.5
            mixed = scores.masked_fill(later, -1e9).softmax(-1) @ value
            x = self.norm[index](x + self.mix[index](mixed.transpose(1, 2).flatten(2)))
        return x, torch.stack(kept)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _shift(self, x: Tensor, length: int, total: int) -> Tensor:
        """Turn columns that count distances into columns that count positions."""
        padded = F.pad(x, (1, 0)).reshape(-1, self.heads, total + 1, length)
        return padded[:, :, 1:].reshape(-1, self.heads, length, total)


_AXES = {0: "batch", 1: "length"}
_RANGES = {"batch": BATCH, "length": Range(4, 16, 48)}


def _tokens(sizes: Sizes) -> Tensor:
    return torch.randint(0, 1000, (sizes["batch"], sizes["length"]))


def _mask(sizes: Sizes) -> Tensor:
    """Return 1 for tokens and 0 for padding at the end, of which the first row has none."""
    counts = sizes["length"] - torch.arange(sizes["batch"]) % 3
    return (torch.arange(sizes["length"])[None] < counts[:, None]).long()


def _padded(sizes: Sizes) -> dict[str, Tensor]:
    return {"ids": _tokens(sizes), "mask": _mask(sizes)}


def _segmented(sizes: Sizes) -> dict[str, Tensor]:
    ids = _tokens(sizes)
    return {"ids": ids, "mask": _mask(sizes), "segments": ids % 2}


def _remembering(sizes: Sizes) -> dict[str, Tensor]:
    memory = torch.randn(4, sizes["batch"], sizes["memory"], 64)
    return {"ids": _tokens(sizes), "memory": memory}


TEXT_ENCODERS = (
    Architecture(
        "bert", "language", Bert, _segmented,
        {"ids": _AXES, "mask": _AXES, "segments": _AXES}, ("hidden", "pooled"), _RANGES,
    ),
    Architecture(
        "distilbert-questions", "language", DistilBertForQuestions, _padded,
        {"ids": _AXES, "mask": _AXES}, ("start", "end"), _RANGES,
    ),
    Architecture(
        "sentence-transformer", "language", SentenceTransformer, _padded,
        {"ids": _AXES, "mask": _AXES}, ("sentence",), _RANGES,
    ),
    Architecture(
        "alibi-encoder", "language", AlibiEncoder, lambda sizes: {"ids": _tokens(sizes)},
        {"ids": _AXES}, ("hidden",), _RANGES,
    ),
    Architecture(
        "transformer-xl", "language", TransformerXl, _remembering,
        {"ids": _AXES, "memory": {1: "batch", 2: "memory"}}, ("hidden", "new_memory"),
        {**_RANGES, "memory": Range(2, 12, 32)},
    ),
)  # fmt: skip
