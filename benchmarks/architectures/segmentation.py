"""Networks whose output is an image: segmentation and depth."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from architectures.architecture import Architecture
from architectures.convolution import (
    IMAGE_AXES,
    IMAGE_RANGES,
    Block,
    ConvBn,
    Stages,
    images,
    sized_images,
)


class Double(nn.Sequential):
    """Two convolutions of a U-Net level."""

    def __init__(self, inp, out):
        super().__init__(ConvBn(inp, out), ConvBn(out, out))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015), going up by transposed convolutions or by interpolation."""

    def __init__(self, *, transposed, widths=(8, 16, 32, 48, 64), classes=4):
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(Double(i, o) for i, o in zip(inputs, widths, strict=True))
        wide, narrow = widths[:0:-1], widths[-2::-1]
        pairs = list(zip(wide, narrow, strict=True))
        if transposed:
            ups = [nn.ConvTranspose2d(w, n, 2, 2) for w, n in pairs]
        else:
            ups = [
                nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                    nn.Conv2d(w, n, 1),
                )
                for w, n in pairs
            ]
        self.up = nn.ModuleList(ups)
        self.joined = nn.ModuleList(Double(2 * n, n) for _, n in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image):
        kept, x = [], image
        for index, level in enumerate(self.down):
            x = level(nn.functional.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for up, joined, beside in zip(self.up, self.joined, kept[-2::-1], strict=True):
            x = up(x)
            high, wide = beside.shape[2] - x.shape[2], beside.shape[3] - x.shape[3]
            x = nn.functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            x = joined(torch.cat([beside, x], 1))
        return self.head(x)


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017)."""

    def __init__(self, inp, width):
        super().__init__()
        rates = (6, 12, 18)
        branches = [ConvBn(inp, width, 1), *(ConvBn(inp, width, dilation=r) for r in rates)]
        self.branches = nn.ModuleList(branches)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inp, width, 1), nn.ReLU())
        self.out = ConvBn(width * 5, width, 1)

    def forward(self, x):
        found = [branch(x) for branch in self.branches]
        whole = interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear")
        return self.out(torch.cat([*found, whole], 1))


class DeepLab(nn.Module):
    """DeepLabV3+ (Chen et al. 2018) on ResNet-18."""

    def __init__(self, classes=4):
        super().__init__()
        self.backbone, self.aspp = Stages(), Aspp(48, 24)
        self.low = ConvBn(16, 12, 1)
        self.head = nn.Sequential(ConvBn(36, 24), nn.Conv2d(24, classes, 1))

    def forward(self, image):
        low, *_, deep = self.backbone(image)
        deep = interpolate(self.aspp(deep), size=low.shape[2:], mode="bilinear")
        found = self.head(torch.cat([self.low(low), deep], 1))
        return interpolate(found, size=image.shape[2:], mode="bilinear", align_corners=False)


class Reduced(nn.Module):
    """SegFormer's attention, whose keys are a smaller image, and its convolutional MLP."""

    def __init__(self, width, heads, ratio):
        super().__init__()
        self.heads, self.ratio = heads, ratio
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.both = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.smaller = nn.Conv2d(width, width, ratio, ratio) if ratio > 1 else None
        self.smaller_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)

    def attend(self, x, height, width):
        b, n, c = x.shape
        memory = x
        if self.smaller is not None:
            image = x.permute(0, 2, 1).reshape(b, c, height, width)
            memory = self.smaller(image).reshape(b, c, -1).permute(0, 2, 1)
            memory = self.smaller_norm(memory)
        q = self.query(x).reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3)
        both = self.both(memory).reshape(b, -1, 2, self.heads, c // self.heads)
        k, v = both.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        b, c, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attend(self.norm1(x), height, width)
        y = self.up(self.norm2(x)).transpose(1, 2).view(b, 4 * c, height, width)
        y = self.down(nn.functional.gelu(self.depthwise(y).flatten(2).transpose(1, 2)))
        return (x + y).transpose(1, 2).reshape(b, c, height, width)


class SegFormer(nn.Module):
    """SegFormer-B0 (Xie et al. 2021): a hierarchical transformer with an all-MLP head."""

    def __init__(self, widths=(16, 24, 32, 48), classes=4):
        super().__init__()
        stages, inp = [], 3
        for index, (width, ratio) in enumerate(zip(widths, (8, 4, 2, 1), strict=True)):
            kernel, stride = (3, 2) if index else (7, 4)
            patches = nn.Conv2d(inp, width, kernel, stride, kernel // 2)
            blocks = [Reduced(width, width // 8, ratio) for _ in range(2)]
            stages.append(nn.Sequential(patches, *blocks))
            inp = width
        self.stages = nn.ModuleList(stages)
        self.linear = nn.ModuleList(nn.Linear(width, 32) for width in widths)
        self.fuse, self.head = ConvBn(128, 32, 1), nn.Conv2d(32, classes, 1)

    def forward(self, image):
        maps, x = [], image
        for stage, linear in zip(self.stages, self.linear, strict=True):
            x = stage(x)
            b, _, h, w = x.shape
            y = linear(x.flatten(2).transpose(1, 2)).permute(0, 2, 1).reshape(b, -1, h, w)
            maps.append(y)
        size = maps[0].shape[2:]
        same = [interpolate(each, size=size, mode="bilinear") for each in maps]
        return self.head(self.fuse(torch.cat(same[::-1], 1)))


class Refine(nn.Module):
    """Adds a deeper map to this level's and doubles the size, as in DPT."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = (self._unit(width) for _ in range(2))
        self.out = nn.Conv2d(width, width, 1)

    @staticmethod
    def _unit(width):
        convs = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        return nn.Sequential(*(layer for conv in convs for layer in (nn.ReLU(), conv)))

    def forward(self, x, deeper):
        x = x + self.one(x)
        if deeper is not None:
            x = x + interpolate(deeper, size=x.shape[2:], mode="bilinear", align_corners=True)
        x = x + self.two(x)
        return self.out(interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class Dpt(nn.Module):
    """Depth from one image by a vision transformer and DPT's decoder (Ranftl et al. 2021)."""

    def __init__(self, width=48, depth=12, side=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, side * side + 1, width))
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.readout = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(4))
        self.resized = nn.ModuleList(
            [nn.ConvTranspose2d(width, 24, 4, 4), nn.ConvTranspose2d(width, 24, 2, 2),
             nn.Conv2d(width, 24, 1), nn.Conv2d(width, 24, 3, 2, 1)]
        )  # fmt: skip
        self.refine = nn.ModuleList(Refine(24) for _ in range(4))
        self.head = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 1))
        nn.init.constant_(self.head[-1].bias, 0.3)  # a depth that the last ReLU does not cut off

    def forward(self, image):
        x = self.patches(image)
        b, _, h, w = x.shape
        x = torch.cat([self.first.expand(b, -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x, maps = x + self.position, []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index % 3 == 2:
                beside = x[:, :1].expand_as(x[:, 1:])
                joined = self.readout[index // 3](torch.cat((x[:, 1:], beside), -1))
                tokens = nn.functional.gelu(joined).transpose(1, 2).unflatten(2, (h, w))
                maps.append(self.resized[index // 3](tokens))
        found = None
        for level, refine in zip(maps[::-1], self.refine, strict=True):
            found = refine(level, found)
        wide = interpolate(found, scale_factor=2, mode="bilinear", align_corners=True)
        return torch.relu(self.head(wide)).squeeze(1)


def _sized(name, make, family="segmentation"):
    return Architecture(name, family, make, sized_images, IMAGE_AXES, ("map",), IMAGE_RANGES)


SEGMENTATION = (
    _sized("unet-transposed", lambda: UNet(transposed=True)),
    _sized("unet-bilinear", lambda: UNet(transposed=False)),
    _sized("deeplab-v3", DeepLab),
    _sized("segformer-b0", SegFormer),
    Architecture("dpt-depth", "depth", Dpt, images(), {"image": {0: "batch"}}, ("depth",)),
)
