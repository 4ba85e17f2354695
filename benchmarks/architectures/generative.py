"""Networks that draw: diffusion, decoders of latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Return sines and cosines of a diffusion step, as Ho et al. 2020 write it."""
    rates = torch.exp(
        -math.log(10000) * torch.arange(width // 2, device=time.device) / (width // 2)
    )
    angles = time[:, None].float() * rates[None]
    return torch.cat([angles.cos(), angles.sin()], -1)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, the time added in between."""

    def __init__(self, inp: int, out: int, time: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inp), nn.Conv2d(inp, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(time, out) if time else None
        self.match = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None and time is not None:
            y = y + self.time(F.silu(time))[:, :, None, None]
        return self.match(x) + self.conv2(F.silu(self.norm2(y)))


class CrossAttention(nn.Module):
    """Attention over ``context``, or over ``x`` itself."""

    def __init__(self, width: int, context: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key, self.value = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class SpatialTransformer(nn.Module):
    """Self-attention, attention to the text, GEGLU, over the pixels of a feature map."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.norm, self.into = nn.GroupNorm(8, width, eps=1e-6), nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = CrossAttention(width, width), CrossAttention(width, context)
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        y = self.into(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, rows * columns, width)
        y = y + self.own(self.norms[0](y))
        y = y + self.cross(self.norms[1](y), text)
        value, gate = self.up(self.norms[2](y)).chunk(2, -1)
        y = y + self.down(value * F.gelu(gate))
        return x + self.out(y.reshape(batch, rows, columns, width).permute(0, 3, 1, 2))


class DiffusionUnet(nn.Module):
    """The U-Net of latent diffusion (Rombach et al. 2021), with text by attention."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64), text: int = 48) -> None:
        super().__init__()
        self.first, time = widths[0], 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(self.first, time), nn.SiLU(), nn.Linear(time, time))
        self.start = nn.Conv2d(4, self.first, 3, padding=1)
        self.down, self.up, kept, width = nn.ModuleList(), nn.ModuleList(), [self.first], self.first
        for level, wide in enumerate(widths):
            for _ in range(2):
                self.down.append(self._pair(width, wide, time, text))
                width = wide
                kept.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, 2, 1))
                kept.append(width)
        self.middle = self._pair(width, width, time, text)
        self.last = ResidualBlock(width, width, time)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(3):
                self.up.append(self._pair(width + kept.pop(), wide, time, text))
                width = wide
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm, self.end = nn.GroupNorm(8, width), nn.Conv2d(width, 4, 3, padding=1)

    @staticmethod
    def _pair(inp: int, out: int, time: int, text: int) -> nn.ModuleList:
        return nn.ModuleList([ResidualBlock(inp, out, time), SpatialTransformer(out, text)])

    def forward(self, latent: Tensor, step: Tensor, text: Tensor) -> Tensor:
        time = self.time(time_embedding(step, self.first))
        x = self.start(latent)
        kept = [x]
        for part in self.down:
            x = part[1](part[0](x, time), text) if isinstance(part, nn.ModuleList) else part(x)
            kept.append(x)
        x = self.last(self.middle[1](self.middle[0](x, time), text), time)
        for part in self.up:
            if isinstance(part, nn.ModuleList):
                x = part[1](part[0](torch.cat([x, kept.pop()], 1), time), text)
            else:
                x = part(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.end(F.silu(self.norm(x)))


class VaeDecoder(nn.Module):
    """The decoder of latent diffusion's autoencoder: attention in the middle, three doublings."""

    def __init__(self, widths: tuple[int, ...] = (64, 64, 32, 16)) -> None:
        super().__init__()
        wide = widths[0]
        self.start = nn.Conv2d(4, wide, 3, padding=1)
        self.before, self.after = ResidualBlock(wide, wide), ResidualBlock(wide, wide)
        self.norm, self.mix = nn.GroupNorm(8, wide, eps=1e-6), nn.Conv2d(wide, wide, 1)
        self.query, self.key, self.value = (nn.Conv2d(wide, wide, 1) for _ in range(3))
        self.blocks, self.grow = nn.ModuleList(), nn.ModuleList()
        for each in widths:
            first = ResidualBlock(wide, each)
            self.blocks.append(
                nn.Sequential(first, ResidualBlock(each, each), ResidualBlock(each, each))
            )
            self.grow.append(nn.Conv2d(each, each, 3, padding=1))
            wide = each
        self.last, self.end = nn.GroupNorm(8, wide), nn.Conv2d(wide, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.before(self.start(latent / 0.18215))
        y = self.norm(x)
        query, key, value = (
            self.query(y).flatten(2),
            self.key(y).flatten(2),
            self.value(y).flatten(2),
        )
        weights = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(-1)
        mixed = (value @ weights.transpose(1, 2)).view_as(x)
        x = self.after(x + self.mix(mixed))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.blocks) - 1:
                x = self.grow[index](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.end(F.silu(self.last(x)))


class DiffusionTransformer(nn.Module):
    """DiT (Peebles and Xie 2022): patches, modulation by time and class, back to an image."""

    def __init__(self, layers: int = 8, width: int = 64, heads: int = 4, patch: int = 2) -> None:
        super().__init__()
        self.width, self.heads, self.patch = width, heads, patch
        self.patches = nn.Conv2d(4, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(11, width)
        self.change = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.final, self.head = nn.Linear(width, 2 * width), nn.Linear(width, patch * patch * 8)

    def forward(self, latent: Tensor, step: Tensor, label: Tensor) -> Tensor:
        x = self.patches(latent).flatten(2).transpose(1, 2) + self.places
        given = F.silu(self.time(time_embedding(step, self.width)) + self.labels(label))
        for i, change in enumerate(self.change):
            shift1, scale1, gate1, shift2, scale2, gate2 = change(given)[:, None].chunk(6, -1)
            y = self.qkv[i](self.norm(x) * (1 + scale1) + shift1)
            parts = y.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
            x = x + gate1 * self.mix[i](mixed)
            y = self.up[i](self.norm(x) * (1 + scale2) + shift2)
            x = x + gate2 * self.down[i](F.gelu(y, approximate="tanh"))
        shift, scale = self.final(given)[:, None].chunk(2, -1)
        x = self.head(self.norm(x) * (1 + scale) + shift)
        x = x.reshape(-1, 8, 8, self.patch, self.patch, 8)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, 8, 16, 16)


def _diffusion(sizes: Sizes) -> dict[str, Tensor]:
    return {
        "latent": torch.randn(sizes["batch"], 4, 16, 16),
        "step": torch.randint(0, 1000, (sizes["batch"],)),
    }


def _with_text(sizes: Sizes) -> dict[str, Tensor]:
    return {**_diffusion(sizes), "text": torch.randn(sizes["batch"], 12, 48)}


def _with_label(sizes: Sizes) -> dict[str, Tensor]:
    return {**_diffusion(sizes), "label": torch.randint(0, 11, (sizes["batch"],))}


GENERATIVE = (
    Architecture(
        "diffusion-unet", "generative", DiffusionUnet, _with_text,
        {"latent": {0: "batch"}, "step": {0: "batch"}, "text": {0: "batch"}}, ("noise",),
    ),
    Architecture(
        "vae-decoder", "generative", VaeDecoder,
        lambda sizes: {"latent": torch.randn(sizes["batch"], 4, sizes["rows"], sizes["columns"])},
        {"latent": {0: "batch", 2: "rows", 3: "columns"}}, ("image",),
        {"batch": BATCH, "rows": Range(4, 8, 16), "columns": Range(4, 12, 16)},
    ),
    Architecture(
        "diffusion-transformer", "generative", DiffusionTransformer, _with_label,
        {"latent": {0: "batch"}, "step": {0: "batch"}, "label": {0: "batch"}}, ("noise",),
    ),
)  # fmt: skip
