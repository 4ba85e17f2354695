"""Encoder-decoder transformers, and the decoder step of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


class Attention(nn.Module):
    """Multi-head attention of ``x`` over ``context``, with an additive bias."""

    def __init__(self, width: int, heads: int, *, scaled: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=bias) for _ in range(4)
        )

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        pair = self.split(self.key(context)), self.split(self.value(context))
        return self.mixed(x, pair, bias)

    def mixed(self, x: Tensor, pair: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
        """Attend to keys and values that are there already, each (batch, heads, length, size)."""
        scores = self.split(self.query(x)) * self.scale @ pair[0].transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        return self.out((scores.softmax(-1) @ pair[1]).transpose(1, 2).flatten(2))


class T5Norm(nn.Module):
    """Root-mean-square normalization without a mean or a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class RelativeBias(nn.Module):
    """T5's bias by distance: exact buckets for near positions, logarithmic ones for far."""

    def __init__(self, heads: int, buckets: int = 32, farthest: int = 128, *, both: bool) -> None:
        super().__init__()
        self.buckets, self.farthest, self.both = buckets, farthest, both
        self.table = nn.Embedding(buckets, heads)

    def forward(self, length: int, device: torch.device) -> Tensor:
        place = torch.arange(length, device=device)
        distance, buckets = place[None, :] - place[:, None], self.buckets
        found = torch.zeros_like(distance)
        if self.both:
            buckets //= 2
            found = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = -torch.minimum(distance, torch.zeros_like(distance))
        exact = buckets // 2
        steps = torch.log(distance.float() / exact + 1e-6) / math.log(self.farthest / exact)
        far = (exact + steps * (buckets - exact)).long().clamp(max=buckets - 1)
        found = found + torch.where(distance < exact, distance, far)
        return self.table(found).permute(2, 0, 1)[None]


class T5Layer(nn.Module):
    """Self-attention, cross-attention where it is a decoder's, and a ReLU feed-forward."""

    def __init__(self, width: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.own = Attention(width, heads, scaled=False, bias=False)
        self.cross = Attention(width, heads, scaled=False, bias=False) if cross else None
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(T5Norm(width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor, context: Tensor, outer: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.own(y, y, bias)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), context, outer)
        return x + self.down(F.relu(self.up(self.norms[2](x))))


class T5(nn.Module):
    """T5 (Raffel et al. 2019): encoder and decoder in one graph, as teacher forcing runs them."""

    def __init__(self, layers: int = 6, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)
        self.encoder = nn.ModuleList(T5Layer(width, heads, cross=False) for _ in range(layers))
        self.decoder = nn.ModuleList(T5Layer(width, heads, cross=True) for _ in range(layers))
        self.near, self.past = RelativeBias(heads, both=True), RelativeBias(heads, both=False)
        self.norms = nn.ModuleList(T5Norm(width) for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        outer = (1.0 - mask[:, None, None, :].float()) * -1e9
        context = self.words(ids)
        bias = self.near(ids.shape[1], ids.device) + outer
        for layer in self.encoder:
            context = layer(context, bias, context, outer)
        context = self.norms[0](context)
        x, length = self.words(targets), targets.shape[1]
        later = torch.full((length, length), -1e9, device=ids.device).triu(1)
        bias = self.past(length, ids.device) + later
        for layer in self.decoder:
            x = layer(x, bias, context, outer)
        return self.norms[1](x) * 64**-0.5 @ self.words.weight.T


class BartStep(nn.Module):
    """One step of BART's decoder (Lewis et al. 2019), cross-attending to cached encoder states."""

    def __init__(self, layers: int = 6, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(130, width)
        self.start, self.heads = nn.LayerNorm(width), heads
        self.own = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.cross = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 * layers))

    def forward(
        self, ids: Tensor, states: Tensor, mask: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``past``: (layers, 2, batch, heads, length, size); one token is added."""
        place = torch.arange(past.shape[4], past.shape[4] + 1, device=ids.device) + 2
        x = self.start(self.words(ids) * 8.0 + self.places(place))
        outer = torch.where(mask[:, None, None, :] > 0, 0.0, -1e9)
        present = []
        for index, own in enumerate(self.own):
            pair = torch.stack([own.split(own.key(x)), own.split(own.value(x))])
            kept = torch.cat([past[index], pair], 3)
            present.append(kept)
            x = self.norms[3 * index](x + own.mixed(x, (kept[0], kept[1])))
            x = self.norms[3 * index + 1](x + self.cross[index](x, states, outer))
            x = self.norms[3 * index + 2](x + self.down[index](F.gelu(self.up[index](x))))
        return x @ self.words.weight.T, torch.stack(present)


class WhisperLayer(nn.Module):
    """Attention and feed-forward behind their LayerNorms, as GPT-2 orders them."""

    def __init__(self, width: int, heads: int, *, cross: bool) -> None:
        super().__init__()
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads) if cross else None
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor | None, context: Tensor | None) -> Tensor:
        y = self.norms[0](x)
        x = x + self.own(y, y, bias)
        if self.cross is not None and context is not None:
            x = x + self.cross(self.norms[1](x), context)
        return x + self.down(F.gelu(self.up(self.norms[2](x))))


class Whisper(nn.Module):
    """Whisper (Radford et al. 2022): two convolutions over the spectrogram, encoder, decoder."""

    def __init__(self, layers: int = 4, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        rates = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
        angles = torch.arange(512)[:, None] * rates
        self.register_buffer("waves", torch.cat([angles.sin(), angles.cos()], 1))
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(128, width)
        self.encoder = nn.ModuleList(WhisperLayer(width, heads, cross=False) for _ in range(layers))
        self.decoder = nn.ModuleList(WhisperLayer(width, heads, cross=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, mel: Tensor, ids: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.waves[: x.shape[1]]
        for layer in self.encoder:
            x = layer(x, None, None)
        context, length = self.norms[0](x), ids.shape[1]
        later = torch.full((length, length), -torch.inf).triu(1)
        y = self.words(ids) + self.places.weight[:length]
        for layer in self.decoder:
            y = layer(y, later, context)
        return self.norms[1](y) @ self.words.weight.T


_IDS = {0: "batch", 1: "length"}


def _text_to_text(sizes: Sizes) -> dict[str, Tensor]:
    mask = torch.ones(sizes["batch"], sizes["length"], dtype=torch.long)
    mask[1:, -1] = 0
    return {
        "ids": torch.randint(0, 1000, (sizes["batch"], sizes["length"])),
        "mask": mask,
        "targets": torch.randint(0, 1000, (sizes["batch"], sizes["answer"])),
    }


def _one_step(sizes: Sizes) -> dict[str, Tensor]:
    batch, length = sizes["batch"], sizes["length"]
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, -1] = 0
    return {
        "ids": torch.randint(0, 1000, (batch, 1)),
        "states": torch.randn(batch, length, 64),
        "mask": mask,
        "past": torch.randn(6, 2, batch, 4, sizes["past"], 16),
    }


def _sound_to_text(sizes: Sizes) -> dict[str, Tensor]:
    return {
        "mel": torch.randn(sizes["batch"], 80, 96),
        "ids": torch.randint(0, 1000, (sizes["batch"], sizes["length"])),
    }


ENCODER_DECODERS = (
    Architecture(
        "t5", "language", T5, _text_to_text,
        {"ids": _IDS, "mask": _IDS, "targets": {0: "batch", 1: "answer"}}, ("logits",),
        {"batch": BATCH, "length": Range(4, 16, 48), "answer": Range(2, 8, 24)},
    ),
    Architecture(
        "bart-step", "language", BartStep, _one_step,
        {
            "ids": {0: "batch"}, "states": {0: "batch", 1: "length"},
            "mask": {0: "batch", 1: "length"}, "past": {2: "batch", 4: "past"},
        },
        ("logits", "present"),
        {"batch": BATCH, "length": Range(4, 16, 48), "past": Range(1, 8, 32)},
    ),
    Architecture(
        "whisper", "speech", Whisper, _sound_to_text,
        {"mel": {0: "batch"}, "ids": _IDS}, ("logits",),
        {"batch": BATCH, "length": Range(2, 8, 24)},
    ),
)  # fmt: skip
