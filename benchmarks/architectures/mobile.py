"""Small and fast convolutional networks, and their modern large relatives."""

from __future__ import annotations

import torch
from torch import nn

from architectures.architecture import Architecture
from architectures.convolution import Bottleneck, ConvBn, SqueezeExcite, images


class Inverted(nn.Module):
    """The inverted residual block of MobileNetV2, V3 and EfficientNet."""

    def __init__(self, inp, out, expand, kernel=3, stride=1, act=nn.ReLU6, excite=None):
        super().__init__()
        hidden = inp * expand
        layers = [ConvBn(inp, hidden, 1, act=act)] if expand > 1 else []
        layers.append(ConvBn(hidden, hidden, kernel, stride, hidden, act=act))
        layers += [excite(hidden)] if excite else []
        self.body = nn.Sequential(*layers, ConvBn(hidden, out, 1, act=None))
        self.residual = inp == out and stride == 1

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class Mobile(nn.Module):
    """A stack of inverted residual blocks; ``rows``: expand, width, depth, stride, kernel."""

    def __init__(self, rows, act, excite=None, wide=96, classes=10):
        super().__init__()
        layers, inp = [ConvBn(3, 8, 3, 2, act=act)], 8
        for expand, width, depth, stride, kernel in rows:
            for index in range(depth):
                step = stride if index == 0 else 1
                layers.append(Inverted(inp, width, expand, kernel, step, act, excite))
                inp = width
        self.features = nn.Sequential(*layers, ConvBn(inp, wide, 1, act=act))
        self.head = nn.Sequential(nn.Linear(wide, wide), act(), nn.Linear(wide, classes))

    def forward(self, image):
        found = nn.functional.adaptive_avg_pool2d(self.features(image), 1)
        return self.head(found.reshape(found.shape[0], -1))


MOBILENET_V2 = (
    (1, 8, 1, 1, 3), (6, 12, 2, 2, 3), (6, 16, 3, 2, 3), (6, 24, 4, 2, 3), (6, 32, 3, 1, 3),
    (6, 40, 3, 2, 3), (6, 48, 1, 1, 3),
)  # fmt: skip
MOBILENET_V3 = (
    (1, 8, 1, 1, 3), (4, 12, 2, 2, 3), (3, 16, 3, 2, 5), (6, 24, 4, 2, 3), (6, 32, 2, 1, 3),
    (6, 40, 3, 2, 5),
)  # fmt: skip
EFFICIENTNET_B0 = (
    (1, 8, 1, 1, 3), (6, 12, 2, 2, 3), (6, 16, 2, 2, 5), (6, 24, 3, 2, 3), (6, 32, 3, 1, 5),
    (6, 40, 4, 2, 5), (6, 48, 1, 1, 3),
)  # fmt: skip


def _v3_excite(width):
    return SqueezeExcite(width, max(width // 4, 8), gate=nn.Hardsigmoid)


def _efficient_excite(width):
    return SqueezeExcite(width, max(width // 24, 2), nn.SiLU)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of an image."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, then linear layers with the channels last."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width)
        self.down, self.scale = nn.Linear(4 * width, width), nn.Parameter(torch.rand(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """ConvNeXt-T (Liu et al. 2022)."""

    def __init__(self, depths=(3, 3, 9, 3), widths=(16, 24, 32, 48), classes=10):
        super().__init__()
        layers, inp = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0])], widths[0]
        for depth, width in zip(depths, widths, strict=True):
            if width != inp:
                layers += [LayerNorm2d(inp), nn.Conv2d(inp, width, 2, 2)]
            layers += [ConvNextBlock(width) for _ in range(depth)]
            inp = width
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(inp), nn.Linear(inp, classes)

    def forward(self, image):
        return self.head(self.norm(self.features(image).mean((-2, -1))))


class ShuffleBlock(nn.Module):
    """Half of the channels pass a block; then both halves are shuffled."""

    def __init__(self, inp, out, stride):
        super().__init__()
        self.stride, half = stride, out // 2
        source = inp if stride == 2 else half
        self.main = nn.Sequential(
            ConvBn(source, half, 1),
            ConvBn(half, half, 3, stride, half, act=None),
            ConvBn(half, half, 1),
        )
        if stride == 2:
            self.side = nn.Sequential(ConvBn(inp, inp, 3, 2, inp, act=None), ConvBn(inp, half, 1))

    def forward(self, x):
        if self.stride == 2:
            parts = self.side(x), self.main(x)
        else:
            kept, passed = x.chunk(2, 1)
            parts = kept, self.main(passed)
        x = torch.cat(parts, 1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleNet(nn.Module):
    """ShuffleNetV2 1x (Ma et al. 2018)."""

    def __init__(self, classes=10):
        super().__init__()
        layers, inp = [ConvBn(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1)], 16
        for width, depth in ((32, 4), (48, 8), (64, 4)):
            layers += [ShuffleBlock(inp, width, 2)]
            layers += [ShuffleBlock(width, width, 1) for _ in range(depth - 1)]
            inp = width
        self.features = nn.Sequential(*layers, ConvBn(inp, 96, 1))
        self.head = nn.Linear(96, classes)

    def forward(self, image):
        return self.head(self.features(image).mean([2, 3]))


class RegNet(nn.Module):
    """RegNetY-400MF (Radosavovic et al. 2020): grouped bottlenecks with channel attention."""

    def __init__(self, depths=(1, 3, 6, 6), widths=(16, 32, 48, 64), classes=10):
        super().__init__()
        layers, inp = [ConvBn(3, 16, 3, 2)], 16
        for depth, width in zip(depths, widths, strict=True):
            for index in range(depth):
                stride = 2 if index == 0 else 1
                excite = max(inp // 4, 4)
                layers.append(Bottleneck(inp, width, width, stride, width // 8, excite=excite))
                inp = width
        self.features, self.head = nn.Sequential(*layers), nn.Linear(inp, classes)

    def forward(self, image):
        return self.head(nn.functional.adaptive_avg_pool2d(self.features(image), 1).flatten(1))


class Ghost(nn.Module):
    """Half of the channels by a convolution, half by a cheap operation on the first half."""

    def __init__(self, inp, out, stride=1):
        super().__init__()
        self.main = ConvBn(inp, out // 2, 1, stride)
        self.cheap = ConvBn(out // 2, out // 2, 3, groups=out // 2)
        self.out = out

    def forward(self, x):
        first = self.main(x)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.out]


class GhostNet(nn.Module):
    """GhostNet (Han et al. 2019), sixteen ghost modules, with dropout before the head."""

    def __init__(self, classes=10):
        super().__init__()
        layers, inp = [ConvBn(3, 16, 3, 2, act=nn.Hardswish)], 16
        for width, depth in ((16, 3), (24, 4), (40, 5), (80, 4)):
            layers += [Ghost(inp, width, 2), *(Ghost(width, width) for _ in range(depth - 1))]
            layers.append(_v3_excite(width))
            inp = width
        self.features, self.head = nn.Sequential(*layers), nn.Linear(inp, classes)

    def forward(self, image):
        found = self.features(image).mean((2, 3))
        return self.head(nn.functional.dropout(found, 0.2, self.training)).log_softmax(-1)


def _classifier(name, make):
    axes = {"image": {0: "batch"}}
    return Architecture(name, "classification", make, images(), axes, ("logits",))


MOBILE = (
    _classifier("mobilenet-v2", lambda: Mobile(MOBILENET_V2, nn.ReLU6)),
    _classifier("mobilenet-v3", lambda: Mobile(MOBILENET_V3, nn.Hardswish, _v3_excite)),
    _classifier("efficientnet-b0", lambda: Mobile(EFFICIENTNET_B0, nn.SiLU, _efficient_excite)),
    _classifier("convnext-t", ConvNext),
    _classifier("shufflenet-v2", ShuffleNet),
    _classifier("regnet-y", RegNet),
    _classifier("ghostnet", GhostNet),
)
