"""Networks that make images: larger, cleaner, or out of noise."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, leaky_relu

from architectures.architecture import Architecture, Range
from architectures.convolution import IMAGE_AXES, kept_alive, sized_images


class DenseConvs(nn.Module):
    """ESRGAN's residual dense block."""

    def __init__(self, width, growth=8):
        super().__init__()
        inputs = [width + index * growth for index in range(5)]
        outputs = [growth] * 4 + [width]
        pairs = zip(inputs, outputs, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)

    def forward(self, x):
        found = [x]
        for conv in self.convs[:-1]:
            found.append(leaky_relu(conv(torch.cat(found, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(found, 1))


class Esrgan(nn.Module):
    """ESRGAN (Wang et al. 2018): residual dense blocks, sizes doubled by nearest neighbours."""

    def __init__(self, width=16, depth=8):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        groups = (nn.Sequential(*(DenseConvs(width) for _ in range(3))) for _ in range(depth))
        self.groups, self.body = nn.ModuleList(groups), nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image):
        x = y = self.first(image)
        for group in self.groups:
            y = y + 0.2 * group(y)
        x = x + self.body(y)
        for up in self.up:
            x = leaky_relu(up(interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(x)


class Edsr(nn.Module):
    """EDSR (Lim et al. 2017): sixteen residual blocks, PixelShuffle, and a bicubic image added."""

    def __init__(self, width=16, depth=16):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.first, self.act = nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)
            )
            for _ in range(depth)
        )
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image):
        x = first = self.act(self.first(image - self.mean))
        for block in self.blocks:
            x = x + block(x) * 0.1
        found = self.last(self.up(x + first)) + self.mean
        return found + interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)


class Modulated(nn.Module):
    """StyleGAN2's convolution, whose weights depend on the style: grouped by sample."""

    def __init__(self, inp, out, style, *, up=False, demodulate=True, kernel=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inp, kernel, kernel) / (inp * kernel**2) ** 0.5)
        self.style, self.up, self.demodulate = nn.Linear(style, inp), up, demodulate
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x, style):
        b, c, _, _ = x.shape
        weight = self.weight * (self.style(style) + 1).view(b, 1, c, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        if self.up:
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        h, w = x.shape[2:]
        out, kernel = self.weight.shape[0], self.weight.shape[2]
        x = x.reshape(1, b * c, h, w)
        x = conv2d(x, weight.reshape(b * out, c, kernel, kernel), padding=kernel // 2, groups=b)
        return x.view(b, out, h, w) + self.bias.view(-1, 1, 1)


class Shared(Modulated):
    """The same by scaling activations instead: one convolution for all samples."""

    def forward(self, x, style):
        gain = self.style(style) + 1
        if self.up:
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        kernel = self.weight.shape[2]
        x = conv2d(x * gain[:, :, None, None], self.weight, padding=kernel // 2)
        if self.demodulate:
            power = (self.weight.square().sum((2, 3)) @ gain.square().t()).t()
            x = x * torch.rsqrt(power + 1e-8)[:, :, None, None]
        return x + self.bias.view(-1, 1, 1)


class StyleGan(nn.Module):
    """StyleGAN2 (Karras et al. 2019): mapping network and synthesis from 4 to 64 pixels."""

    def __init__(self, conv, width=32, style=32):
        super().__init__()
        self.mapping = nn.ModuleList(nn.Linear(style, style) for _ in range(8))
        self.start = nn.Parameter(torch.randn(1, width, 4, 4))
        self.ups = nn.ModuleList(conv(width, width, style, up=True) for _ in range(4))
        self.convs = nn.ModuleList(conv(width, width, style) for _ in range(4))
        self.colours = nn.ModuleList(
            conv(width, 3, style, demodulate=False, kernel=1) for _ in range(4)
        )

    def forward(self, noise):
        style = noise * torch.rsqrt(noise.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            style = leaky_relu(layer(style), 0.2) * 2**0.5
        x, image = self.start.repeat(noise.shape[0], 1, 1, 1), None
        for up, conv, colour in zip(self.ups, self.convs, self.colours, strict=True):
            x = leaky_relu(up(x, style), 0.2)
            x = leaky_relu(conv(x, style), 0.2)
            seen = colour(x, style)
            if image is None:
                image = seen
            else:
                image = interpolate(image, scale_factor=2, mode="bilinear") + seen
        return image


def _noise(sizes):
    return {"noise": torch.randn(sizes["batch"], 32)}


SMALL = {"batch": Range(1, 2, 3), "height": Range(16, 24, 40), "width": Range(16, 32, 40)}


def _enlarged(name, make):
    def alive():
        return kept_alive(make())

    return Architecture(name, "restoration", alive, sized_images, IMAGE_AXES, ("large",), SMALL)


def _generated(name, conv):
    def make():
        return kept_alive(StyleGan(conv))

    axes = {"noise": {0: "batch"}}
    return Architecture(name, "image generation", make, _noise, axes, ("image",))


RESTORATION = (
    _enlarged("esrgan", Esrgan),
    _enlarged("edsr", Edsr),
    _generated("stylegan2-grouped", Modulated),
    _generated("stylegan2-scaled", Shared),
)
