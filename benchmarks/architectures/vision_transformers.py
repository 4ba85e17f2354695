"""Transformers and MLPs that classify images, and two towers for images and text."""

from __future__ import annotations

import torch
from torch import nn

from architectures.architecture import Architecture, Range
from architectures.convolution import Block, Mlp, images
from architectures.encoder_decoders import Attention


class Vit(nn.Module):
    """ViT (Dosovitskiy et al. 2020): class token, learned positions, twelve layers."""

    def __init__(self, width=64, depth=12, classes=10):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Encoder(nn.Module):
    """ViT out of ``nn.TransformerEncoder``, as many write it."""

    def __init__(self, width=48, depth=6, classes=10):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.patches, self.head = nn.Linear(3 * 64, width), nn.Linear(width, classes)

    def forward(self, image):
        b, c, h, w = image.shape
        x = image.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 1, 3, 5)
        x = self.patches(x.reshape(b, (h // 8) * (w // 8), c * 64))
        return self.head(self.encoder(x).mean(1))


def windows(x, size):
    """Cut an image with the channels last into windows; the batch holds the windows."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def joined(x, size, height, width):
    """Put windows together again."""
    per_image = (height // size) * (width // size)
    x = x.view(x.shape[0] // per_image, height // size, width // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], height, width, -1)


class SwinBlock(nn.Module):
    """Attention in windows, every other time in shifted ones, with a bias by relative position."""

    def __init__(self, width, heads, side, size=4, shift=0):
        super().__init__()
        self.heads, self.size, self.shift, self.side = heads, size, shift, side
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width)
        self.table = nn.Parameter(torch.randn((2 * size - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
        near = at.flatten(1)[:, :, None] - at.flatten(1)[:, None] + size - 1
        self.register_buffer("index", (near[0] * (2 * size - 1) + near[1]).flatten())
        self.register_buffer("mask", self._mask() if shift else None)

    def _mask(self):
        """Tokens that came together only by the shift must not see one another."""
        area = torch.zeros(1, self.side, self.side, 1)
        parts = slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None)
        for row in range(3):
            for column in range(3):
                area[:, parts[row], parts[column]] = 3 * row + column
        area = windows(area, self.size).squeeze(-1)
        return (area[:, None] != area[:, :, None]).float() * -100.0

    def attend(self, x):
        n, length, c = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index].view(length, length, -1).permute(2, 0, 1)
        weights = weights + bias.unsqueeze(0)
        if self.mask is not None:
            count = self.mask.shape[0]
            mask = self.mask[None, :, None]
            weights = weights.view(n // count, count, self.heads, length, length) + mask
            weights = weights.view(-1, self.heads, length, length)
        found = weights.softmax(-1) @ v
        return self.out(found.transpose(1, 2).reshape(n, length, c))

    def forward(self, x):
        _, h, w, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = joined(self.attend(windows(y, self.size)), self.size, h, w)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Puts four neighbouring patches into one."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.out = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        corners = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        return self.out(self.norm(torch.cat(corners, -1)))


class Swin(nn.Module):
    """Swin-T (Liu et al. 2021)."""

    def __init__(self, width=16, depths=(2, 2, 6, 2), side=32, classes=10):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        layers = []
        for stage, depth in enumerate(depths):
            if stage:
                layers.append(Merge(width))
                width, side = 2 * width, side // 2
            for index in range(depth):
                shift = 2 if index % 2 and side > 4 else 0
                layers.append(SwinBlock(width, 2 * 2**stage, side, shift=shift))
        self.layers = nn.Sequential(*layers)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image):
        x = self.norm(self.patches(image).permute(0, 2, 3, 1))
        x = self.last(self.layers(x)).permute(0, 3, 1, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Mixer(nn.Module):
    """A layer that mixes tokens, then channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens, self.channels = Mlp(tokens, 2 * tokens), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021), eight layers."""

    def __init__(self, width=48, depth=8, classes=10):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.layers = nn.Sequential(*(Mixer(64, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(x)).mean(1))


class QuickGelu(nn.Module):
    """The activation of CLIP."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class TextTower(nn.Module):
    """A causal transformer whose last token, the one with the largest id, stands for the text.

    Its attention is not ``nn.MultiheadAttention``: in that, the TorchScript exporter of torch 2.13
    takes the length for a constant, and the graph stops at any other length.
    """

    def __init__(self, width=48, depth=6, longest=32, words=64):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(longest, width))
        self.norms1 = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.norms2 = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.attention = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.words(tokens) + self.position[:length]
        hidden = torch.full((length, length), float("-inf")).triu(1)
        parts = zip(self.norms1, self.attention, self.norms2, self.mlps, strict=True)
        for norm1, attention, norm2, mlp in parts:
            y = norm1(x)
            x = x + attention(y, y, hidden)
            x = x + mlp(norm2(x))
        return self.norm(x)[torch.arange(x.shape[0]), tokens.argmax(-1)]


class Clip(nn.Module):
    """CLIP (Radford et al. 2021): an image tower, a text tower, and their cosines."""

    def __init__(self, width=48):
        super().__init__()
        self.image, self.text = Vit(width, 6, 32), TextTower(width)
        self.projection = nn.Linear(width, 32, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.66))

    def forward(self, image, tokens):
        seen, read = self.image(image), self.projection(self.text(tokens))
        seen = seen / seen.norm(dim=-1, keepdim=True)
        read = nn.functional.normalize(read, dim=-1)
        logits = self.scale.exp() * seen @ read.t()
        return logits, logits.t()


def _pairs(sizes):
    tokens = torch.randint(0, 64, (sizes["texts"], sizes["length"]))
    return {"image": torch.randn(sizes["batch"], 3, 64, 64), "tokens": tokens}


def _classifier(name, make):
    axes = {"image": {0: "batch"}}
    return Architecture(name, "classification", make, images(), axes, ("logits",))


VISION_TRANSFORMERS = (
    _classifier("vit", Vit),
    _classifier("vit-encoder-layers", Encoder),
    Architecture(
        "swin-t", "classification", Swin, images(128), {"image": {0: "batch"}}, ("logits",)
    ),
    _classifier("mlp-mixer", MlpMixer),
    Architecture(
        "clip", "two towers", Clip, _pairs,
        {"image": {0: "batch"}, "tokens": {0: "texts", 1: "length"}},
        ("of_image", "of_text"),
        {"batch": Range(1, 2, 4), "texts": Range(1, 3, 5), "length": Range(4, 8, 16)},
    ),
)  # fmt: skip
