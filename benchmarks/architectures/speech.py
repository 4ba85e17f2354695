"""Networks that hear and speak: convolutions over time, and transformers over frames."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from architectures.architecture import BATCH, Architecture, Range, Sizes
from architectures.text_encoders import EncoderLayer


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, gated depthwise convolution, half feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.feed = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.SiLU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(2)
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen = nn.Conv1d(width, 2 * width, 1)
        self.deep = nn.Conv1d(width, width, 15, padding=7, groups=width)
        self.batch, self.narrow = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed[0](x)
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        y = F.glu(self.widen(self.norm2(x).transpose(1, 2)), dim=1)
        x = x + self.narrow(F.silu(self.batch(self.deep(y)))).transpose(1, 2)
        return self.norm3(x + 0.5 * self.feed[1](x))


class Conformer(nn.Module):
    """Conformer (Gulati et al. 2020): a quarter of the frames, then blocks; CTC scores."""

    def __init__(self, layers: int = 8, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU()
        )
        self.start = nn.Linear(16 * 19, width)
        self.blocks = nn.ModuleList(ConformerBlock(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, 32)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.stem(mel[:, None])
        x = self.start(x.transpose(1, 2).flatten(2))
        for block in self.blocks:
            x = block(x)
        return self.head(x).log_softmax(-1)


class Wav2Vec2(nn.Module):
    """wav2vec 2.0 (Baevski et al. 2020): samples, seven convolutions, transformer.

    GroupNorm follows the first convolution; a grouped one embeds the positions.
    """

    def __init__(self, layers: int = 6, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        shapes = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
        self.convs = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else width, width, k, s, bias=False)
            for i, (k, s) in enumerate(shapes)
        )
        self.first, self.norm = nn.GroupNorm(width, width), nn.LayerNorm(width)
        self.place = parametrizations.weight_norm(
            nn.Conv1d(width, width, 32, padding=16, groups=8), dim=2
        )
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))

    def forward(self, wave: Tensor) -> Tensor:
        x = (wave - wave.mean(1, keepdim=True)) / (wave.var(1, keepdim=True) + 1e-7).sqrt()
        x = x[:, None]
        for index, conv in enumerate(self.convs):
            x = conv(x)
            x = F.gelu(self.first(x) if index == 0 else x)
        x = self.norm(x.transpose(1, 2))
        x = x + F.gelu(self.place(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, torch.zeros(()))
        return x


class WaveNet(nn.Module):
    """WaveNet (van den Oord et al. 2016): dilated causal convolutions, gated, with skips."""

    def __init__(self, stacks: int = 2, layers: int = 8, width: int = 24) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.dilations = [2**i for _ in range(stacks) for i in range(layers)]
        self.gates = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=d) for d in self.dilations
        )
        self.onward = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.dilations)
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.dilations)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 256, 1)
        )

    def forward(self, wave: Tensor) -> Tensor:
        x, total = self.start(wave), torch.zeros(())
        for index, dilation in enumerate(self.dilations):
            signal, gate = self.gates[index](F.pad(x, (dilation, 0))).chunk(2, 1)
            y = torch.tanh(signal) * torch.sigmoid(gate)
            total = total + self.skips[index](y)
            x = x + self.onward[index](y)
        return self.head(total)


class Tcn(nn.Module):
    """Temporal convolutional network (Bai et al. 2018): causal pairs with residuals."""

    def __init__(self, channels: tuple[int, ...] = (8, 24, 24, 32, 32, 48)) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        weighted = parametrizations.weight_norm
        self.convs = nn.ModuleList(
            nn.ModuleList(
                weighted(nn.Conv1d(each, wide, 3, padding=2 * 2**i, dilation=2**i))
                for each in (narrow, wide)
            )
            for i, (narrow, wide) in enumerate(pairs)
        )
        self.match = nn.ModuleList(
            nn.Identity() if a == b else nn.Conv1d(a, b, 1) for a, b in pairs
        )
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, series: Tensor) -> Tensor:
        x = series
        for index, pair in enumerate(self.convs):
            y, cut = x, 2 * 2**index
            for conv in pair:
                y = F.relu(conv(y)[:, :, :-cut])
            x = F.relu(y + self.match[index](x))
        return self.head(x[:, :, -1])


class HifiGan(nn.Module):
    """HiFi-GAN's generator (Kong et al. 2020): transposed convolutions and residual blocks.

    Three receptive fields follow each transposed convolution.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        weighted = parametrizations.weight_norm
        self.start = weighted(nn.Conv1d(80, width, 7, padding=3))
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
            self.ups.append(
                weighted(nn.ConvTranspose1d(width, width // 2, kernel, rate, (kernel - rate) // 2))
            )
            width //= 2
            for kernel2 in (3, 7, 11):
                convs = [
                    weighted(nn.Conv1d(width, width, kernel2, padding=kernel2 // 2 * d, dilation=d))
                    for pair in ((1, 1), (3, 1), (5, 1))
                    for d in pair
                ]
                self.blocks.append(nn.ModuleList(convs))
        self.end = weighted(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.start(mel)
        for index, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            fields = [self._residual(x, 3 * index + i) for i in range(3)]
            x = (fields[0] + fields[1] + fields[2]) / 3
        return torch.tanh(self.end(F.leaky_relu(x)))

    def _residual(self, x: Tensor, block: int) -> Tensor:
        convs = self.blocks[block]
        for first, second in zip(convs[::2], convs[1::2], strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


def _waves(sizes: Sizes) -> Tensor:
    return torch.randn(sizes["batch"], 1, sizes["samples"])


def _mel(sizes: Sizes) -> dict[str, Tensor]:
    return {"mel": torch.randn(sizes["batch"], 80, sizes["frames"])}


SPEECH = (
    Architecture(
        "conformer", "speech", Conformer,
        lambda sizes: {"mel": torch.randn(sizes["batch"], sizes["frames"], 80)},
        {"mel": {0: "batch", 1: "frames"}}, ("scores",),
        {"batch": BATCH, "frames": Range(32, 96, 160)},
    ),
    Architecture(
        "wav2vec-2", "speech", Wav2Vec2, lambda sizes: {"wave": _waves(sizes)[:, 0]},
        {"wave": {0: "batch", 1: "samples"}}, ("hidden",),
        {"batch": BATCH, "samples": Range(3200, 6400, 12800)},
    ),
    Architecture(
        "wavenet", "speech", WaveNet, lambda sizes: {"wave": _waves(sizes)},
        {"wave": {0: "batch", 2: "samples"}}, ("scores",),
        {"batch": BATCH, "samples": Range(64, 256, 512)},
    ),
    Architecture(
        "tcn", "time series", Tcn,
        lambda sizes: {"series": torch.randn(sizes["batch"], 8, sizes["length"])},
        {"series": {0: "batch", 2: "length"}}, ("scores",),
        {"batch": BATCH, "length": Range(16, 64, 128)},
    ),
    Architecture(
        "hifi-gan", "speech", HifiGan, _mel,
        {"mel": {0: "batch", 2: "frames"}}, ("wave",),
        {"batch": BATCH, "frames": Range(4, 12, 24)},
    ),
)  # fmt: skip
