"""Networks over tables and time series: recommendation and forecasting."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import Architecture, Exporter, Range, Sizes


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    """DLRM (Naumov et al. 2019): bags of categories, pairwise products, two perceptrons."""

    def __init__(self, tables: int = 8, rows: int = 200, width: int = 16) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.Embedding(rows, width) for _ in range(tables))
        self.bottom = _mlp(13, 64, 32, width)
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(_mlp(width + pairs, 64, 32), nn.Linear(32, 1))
        self.register_buffer("rows", torch.tril_indices(tables + 1, tables + 1, -1)[0])
        self.register_buffer("columns", torch.tril_indices(tables + 1, tables + 1, -1)[1])

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """``dense``: (batch, 13); ``sparse``: (batch, tables, ids in a bag)."""
        first = self.bottom(dense)
        bags = [bag(sparse[:, index]).sum(1) for index, bag in enumerate(self.bags)]
        stacked = torch.stack([first, *bags], 1)
        products = stacked @ stacked.transpose(1, 2)
        pairs = products[:, self.rows, self.columns]
        return torch.sigmoid(self.top(torch.cat([first, pairs], 1)))


class NeuralMatrixFactorization(nn.Module):
    """NeuMF (He et al. 2017): the product of two embeddings beside a perceptron over two others."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(500, width), nn.Embedding(800, width)
        self.users2, self.items2 = nn.Embedding(500, 2 * width), nn.Embedding(800, 2 * width)
        self.mlp, self.head = _mlp(4 * width, 64, 32, width), nn.Linear(2 * width, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = self.users(user) * self.items(item)
        deep = self.mlp(torch.cat([self.users2(user), self.items2(item)], -1))
        return torch.sigmoid(self.head(torch.cat([product, deep], -1))).squeeze(-1)


class DeepFm(nn.Module):
    """DeepFM (Guo et al. 2017): factorization machine and perceptron over shared embeddings."""

    def __init__(self, fields: int = 10, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(1000, 1), nn.Embedding(1000, width)
        self.deep = nn.Sequential(_mlp(fields * width, 64, 32), nn.Linear(32, 1))

    def forward(self, ids: Tensor, values: Tensor) -> Tensor:
        linear = (self.first(ids).squeeze(-1) * values).sum(1, keepdim=True)
        x = self.second(ids) * values[..., None]
        pairs = (x.sum(1).square() - x.square().sum(1)).sum(1, keepdim=True) / 2
        return torch.sigmoid(linear + pairs + self.deep(x.flatten(1)))


class Inception(nn.Module):
    """Four square convolutions side by side, their mean."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inp, out, 2 * i + 1, padding=i) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([conv(x) for conv in self.convs], -1).mean(-1)


class TimesNet(nn.Module):
    """TimesNet (Wu et al. 2022): series folded by their strongest periods into images.

    The periods are fixed, because a graph needs one shape; their weights come from the spectrum.
    """

    def __init__(self, length: int = 48, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.length, self.periods = length, (4, 6, 12, 24)
        self.start = nn.Conv1d(7, width, 3, padding=1, padding_mode="circular", bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(Inception(width, 2 * width), nn.GELU(), Inception(2 * width, width))
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, series: Tensor) -> Tensor:
        """``series``: (batch, 48, 7)."""
        mean = series.mean(1, keepdim=True).detach()
        spread = torch.sqrt(series.var(1, keepdim=True, unbiased=False) + 1e-5)
        x = self.start(((series - mean) / spread).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            strength = torch.fft.rfft(x, dim=1).abs().mean(-1)
            share = strength[:, [self.length // p for p in self.periods]].softmax(1)
            found = []
            for period in self.periods:
                image = x.reshape(-1, self.length // period, period, x.shape[2]).permute(0, 3, 1, 2)
                found.append(block(image).permute(0, 2, 3, 1).reshape(-1, self.length, x.shape[2]))
            x = self.norm(x + (torch.stack(found, -1) * share[:, None, None]).sum(-1))
        return self.head(x) * spread + mean


class FourierMixer(nn.Module):
    """FNet (Lee-Thorp et al. 2021): the real part of a Fourier transform in place of attention."""

    def __init__(self, layers: int = 6, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for index, feed in enumerate(self.feed):
            mixed = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
            x = self.norms[2 * index](x + mixed)
            x = self.norms[2 * index + 1](x + feed(x))
        return x


class Autoformer(nn.Module):
    """Autoformer's core (Wu et al. 2021): trend and rest, the rest correlated by Fourier."""

    def __init__(self, length: int = 48, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.length = length
        self.start, self.head = nn.Linear(7, width), nn.Linear(width, 7)
        self.query, self.key, self.value = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for _ in range(3)
        )
        self.feed = nn.ModuleList(_mlp(width, 4 * width, width) for _ in range(layers))

    @staticmethod
    def _trend(x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (12, 12), mode="replicate")
        return F.avg_pool1d(padded, 25, 1).transpose(1, 2)

    def forward(self, series: Tensor) -> Tensor:
        trend = self._trend(series)
        x = self.start(series - trend)
        for index, query in enumerate(self.query):
            first = torch.fft.rfft(query(x), dim=1)
            second = torch.fft.rfft(self.key[index](x), dim=1)
            score = torch.fft.irfft(first * torch.conj(second), n=self.length, dim=1).mean(-1)
            weight, delay = score.topk(3, 1)
            weight, value = weight.softmax(1), self.value[index](x).repeat(1, 2, 1)
            place = torch.arange(self.length)[None, :, None] + delay[:, None, :]
            rolled = torch.stack(
                [
                    value.gather(1, place[:, :, i : i + 1].expand(-1, -1, value.shape[2]))
                    for i in range(3)
                ],
                -1,
            )
            x = x + (rolled * weight[:, None, None]).sum(-1)
            x = x - self._trend(x)
            x = x + self.feed[index](x)
        return self.head(x) + trend


def _clicks(sizes: Sizes) -> dict[str, Tensor]:
    sparse = torch.randint(0, 200, (sizes["batch"], 8, 3))
    return {"dense": torch.randn(sizes["batch"], 13), "sparse": sparse}


def _pairs(sizes: Sizes) -> dict[str, Tensor]:
    batch = (sizes["batch"],)
    return {"user": torch.randint(0, 500, batch), "item": torch.randint(0, 800, batch)}


def _fields(sizes: Sizes) -> dict[str, Tensor]:
    ids = torch.randint(0, 1000, (sizes["batch"], 10))
    return {"ids": ids, "values": torch.rand(sizes["batch"], 10)}


def _series(sizes: Sizes) -> dict[str, Tensor]:
    return {"series": torch.randn(sizes["batch"], 48, 7)}


_NO_FOURIER: dict[Exporter, str] = {
    "torchscript": "UnsupportedOperatorError: Exporting the operator 'aten::fft_rfft' to ONNX "
    "opset version 18 is not supported"  # fnet: 'aten::fft_fft'
}
_MANY = {"batch": Range(1, 32, 128)}

TABLES = (
    Architecture(
        "dlrm", "recommendation", Dlrm, _clicks,
        {"dense": {0: "batch"}, "sparse": {0: "batch"}}, ("click",), _MANY,
    ),
    Architecture(
        "neural-matrix-factorization", "recommendation", NeuralMatrixFactorization, _pairs,
        {"user": {0: "batch"}, "item": {0: "batch"}}, ("rating",), _MANY,
    ),
    Architecture(
        "deepfm", "recommendation", DeepFm, _fields,
        {"ids": {0: "batch"}, "values": {0: "batch"}}, ("click",), _MANY,
    ),
    Architecture(
        "timesnet", "time series", TimesNet, _series, {"series": {0: "batch"}}, ("forecast",),
        left_out=_NO_FOURIER,
    ),
    Architecture(
        "autoformer", "time series", Autoformer, _series, {"series": {0: "batch"}}, ("forecast",),
        left_out=_NO_FOURIER,
    ),
    Architecture(
        "fnet", "language", FourierMixer,
        lambda sizes: {"ids": torch.randint(0, 1000, (sizes["batch"], 16))},
        {"ids": {0: "batch"}}, ("hidden",), left_out=_NO_FOURIER,
    ),
)  # fmt: skip
