"""Blocks and inputs that several vision architectures share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from architectures.architecture import Range, Sizes

HEIGHT, WIDTH = Range(32, 64, 96), Range(32, 64, 128)
IMAGE_RANGES = {"batch": Range(1, 2, 4), "height": HEIGHT, "width": WIDTH}
"""Ranges of networks that take images of any size."""
IMAGE_AXES = {"image": {0: "batch", 2: "height", 3: "width"}}


def images(size: int = 64, channels: int = 3) -> Callable[[Sizes], dict[str, Tensor]]:
    """Return a function that draws square images."""

    def draw(sizes: Sizes) -> dict[str, Tensor]:
        return {"image": torch.randn(sizes["batch"], channels, size, size)}

    return draw


def sized_images(sizes: Sizes) -> dict[str, Tensor]:
    """Draw images of the wanted height and width."""
    return {"image": torch.randn(sizes["batch"], 3, sizes["height"], sizes["width"])}


def kept_alive(module: nn.Module) -> nn.Module:
    """Return ``module`` with weights that keep a signal's size (He et al. 2015).

    It is for depth without normalization: with torch's own weights, the outputs of such a network
    hardly depend on its inputs.
    """
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(each.weight)
    return module


class ConvBn(nn.Sequential):
    """Convolution, batch normalization and an activation."""

    def __init__(self, inp, out, kernel=3, stride=1, groups=1, act=nn.ReLU, dilation=1):
        pad = (kernel - 1) // 2 * dilation
        layers = [nn.Conv2d(inp, out, kernel, stride, pad, dilation, groups, bias=False)]
        layers.append(nn.BatchNorm2d(out))
        super().__init__(*layers, *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018)."""

    def __init__(self, width, hidden, act=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.act = nn.Conv2d(width, hidden, 1), act()
        self.up, self.gate = nn.Conv2d(hidden, width, 1), gate()

    def forward(self, x):
        return x * self.gate(self.up(self.act(self.down(self.pool(x)))))


class Bottleneck(nn.Module):
    """The residual block of ResNet-50, ResNeXt and RegNet."""

    def __init__(self, inp, width, out, stride=1, groups=1, dilation=1, excite=None):
        super().__init__()
        self.body = nn.Sequential(
            ConvBn(inp, width, 1),
            ConvBn(width, width, 3, stride, groups, dilation=dilation),
            SqueezeExcite(width, excite) if excite else nn.Identity(),
            ConvBn(width, out, 1, act=None),
        )
        same = inp == out and stride == 1
        self.shortcut = nn.Identity() if same else ConvBn(inp, out, 1, stride, act=None)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Basic(nn.Module):
    """The residual block of ResNet-18."""

    def __init__(self, inp, out, stride=1):
        super().__init__()
        self.body = nn.Sequential(ConvBn(inp, out, 3, stride), ConvBn(out, out, 3, act=None))
        same = inp == out and stride == 1
        self.shortcut = nn.Identity() if same else ConvBn(inp, out, 1, stride, act=None)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Stages(nn.Module):
    """The ResNet-18 backbone, which gives its four feature maps (strides 4 to 32)."""

    def __init__(self, widths=(16, 24, 32, 48)):
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, widths[0], 7, 2), nn.MaxPool2d(3, 2, 1))
        stages, inp = [], widths[0]
        for index, width in enumerate(widths):
            stages.append(nn.Sequential(Basic(inp, width, 1 + (index > 0)), Basic(width, width)))
            inp = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Mlp(nn.Sequential):
    """The feed-forward part of a transformer."""

    def __init__(self, width, hidden):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Attention with heads; the memory is another sequence, or the queries' own."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.both = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, memory=None):
        memory = x if memory is None else memory
        b, n, c = x.shape
        q = self.query(x).view(b, n, self.heads, -1).transpose(1, 2)
        both = self.both(memory).view(b, memory.shape[1], 2, self.heads, c // self.heads)
        k, v = both.permute(2, 0, 3, 1, 4).unbind(0)
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A transformer layer that normalizes first."""

    def __init__(self, width, heads, expand=4):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, width * expand)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
