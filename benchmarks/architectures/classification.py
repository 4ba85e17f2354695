"""Networks that classify images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.architecture import Architecture, Sizes


def images(size: int = 64, channels: int = 3):
    """Return a function that draws square images."""

    def draw(sizes: Sizes) -> dict[str, Tensor]:
        return {"image": torch.randn(sizes["batch"], channels, size, size)}

    return draw


class ConvBn(nn.Sequential):
    """Convolution, batch normalization and an activation."""

    def __init__(self, inp, out, kernel=3, stride=1, groups=1, act=nn.ReLU, dilation=1):
        layers = [
            nn.Conv2d(
                inp, out, kernel, stride, (kernel - 1) // 2 * dilation, dilation, groups, bias=False
            ),
            nn.BatchNorm2d(out),
        ]
        super().__init__(*layers, *([act()] if act else []))


class Vgg(nn.Module):
    """VGG-16 (Simonyan, Zisserman 2014)."""

    def __init__(self, classes=10):
        super().__init__()
        layers, inp = [], 3
        for width, depth in ((16, 2), (24, 2), (32, 3), (48, 3), (48, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(inp, width, 3, padding=1), nn.ReLU()]
                inp = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(
            nn.Linear(inp * 4, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, classes),
        )

    def forward(self, image):
        return self.head(torch.flatten(self.pool(self.features(image)), 1))


CLASSIFICATION = (
    Architecture("vgg-16", "classification", Vgg, images(), {"image": {0: "batch"}}, ("logits",)),
)
