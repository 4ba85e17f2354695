"""Convolutional networks that classify images."""

from __future__ import annotations

import torch
from torch import nn

from architectures.architecture import Architecture
from architectures.convolution import Basic, Bottleneck, ConvBn, images, kept_alive


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
        first = (nn.Linear(inp * 4, 128), nn.ReLU(), nn.Dropout())
        second = (nn.Linear(128, 128), nn.ReLU(), nn.Dropout())
        self.head = nn.Sequential(*first, *second, nn.Linear(128, classes))

    def forward(self, image):
        return self.head(torch.flatten(self.pool(self.features(image)), 1))


class ResNet(nn.Module):
    """ResNet (He et al. 2015) and ResNeXt (Xie et al. 2016)."""

    def __init__(self, depths, widths, groups=0, classes=10):
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
        layers, inp = [], 16
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                if groups:
                    layers.append(Bottleneck(inp, width // 4, width, stride, groups))
                else:
                    layers.append(Basic(inp, width, stride))
                inp = width
        self.stages = nn.Sequential(*layers)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(inp, classes)

    def forward(self, image):
        return self.head(torch.flatten(self.pool(self.stages(self.stem(image))), 1))


class DenseLayer(nn.Module):
    """Norm, ReLU and convolution twice; the result is put beside what was there."""

    def __init__(self, inp, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inp), nn.Conv2d(inp, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """DenseNet-121 (Huang et al. 2016)."""

    def __init__(self, depths=(6, 12, 24, 16), growth=8, classes=10):
        super().__init__()
        width = 2 * growth
        layers = [ConvBn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for stage, depth in enumerate(depths):
            layers += [DenseLayer(width + index * growth, growth) for index in range(depth)]
            width += depth * growth
            if stage + 1 < len(depths):
                narrow = nn.Conv2d(width, width // 2, 1, bias=False)
                layers += [nn.BatchNorm2d(width), nn.ReLU(), narrow, nn.AvgPool2d(2)]
                width //= 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))


class Inception(nn.Module):
    """Branches side by side, with factorized convolutions, as in Inception v3."""

    def __init__(self, inp, width):
        super().__init__()
        self.one = ConvBn(inp, width, 1)
        self.wide = nn.Sequential(
            ConvBn(inp, width, 1),
            nn.Conv2d(width, width, (1, 7), padding=(0, 3)),
            nn.Conv2d(width, width, (7, 1), padding=(3, 0)),
            nn.ReLU(),
        )
        self.twice = nn.Sequential(
            ConvBn(inp, width, 1), ConvBn(width, width), ConvBn(width, width)
        )
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBn(inp, width, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.wide(x), self.twice(x), self.pool(x)], 1)


class Reduction(nn.Module):
    """Halves the size by convolutions and a pooling side by side."""

    def __init__(self, inp, width):
        super().__init__()
        self.one = ConvBn(inp, width, 3, 2)
        self.twice = nn.Sequential(ConvBn(inp, width, 1), ConvBn(width, width, 3, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return torch.cat([self.one(x), self.twice(x), self.pool(x)], 1)


class InceptionNet(nn.Module):
    """Inception v3 (Szegedy et al. 2015), eleven modules; it scales its input itself."""

    def __init__(self, classes=10):
        super().__init__()
        width, layers = 32, [ConvBn(3, 16, 3, 2), ConvBn(16, 32), nn.MaxPool2d(3, 2)]
        for stage, depth in enumerate((3, 4, 2)):
            for _ in range(depth):
                layers.append(Inception(width, 16 + 8 * stage))
                width = 4 * (16 + 8 * stage)
            if stage < 2:
                layers.append(Reduction(width, 24))
                width += 48
        self.features, self.head = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward(self, image):
        parts = [image[:, i : i + 1] * (0.229 / 0.5) + (0.485 - 0.5) / 0.5 for i in range(3)]
        found = self.features(torch.cat(parts, 1))
        return self.head(nn.functional.adaptive_avg_pool2d(found, (1, 1)).flatten(1))


class Fire(nn.Module):
    """Squeeze to few channels, expand by two kinds of convolutions."""

    def __init__(self, inp, narrow, wide):
        super().__init__()
        self.squeeze = nn.Conv2d(inp, narrow, 1)
        self.one, self.three = nn.Conv2d(narrow, wide, 1), nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al. 2016)."""

    def __init__(self, classes=10):
        super().__init__()
        layers, inp = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)], 32
        for index, wide in enumerate((32, 32, 64, 64, 96, 96, 128, 128)):
            layers.append(Fire(inp, wide // 4, wide))
            inp = 2 * wide
            if index in (1, 3):
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(), nn.Conv2d(inp, classes, 1), nn.ReLU())

    def forward(self, image):
        return self.head(self.features(image)).mean((-2, -1))


def _classifier(name, make, **more):
    axes = {"image": {0: "batch"}}
    return Architecture(name, "classification", make, images(), axes, ("logits",), **more)


ROUNDED = 4e-4  # fifty normalized layers: float32 is 1e-4 away from float64


CLASSIFICATION = (
    _classifier("vgg-16", lambda: kept_alive(Vgg())),
    _classifier("resnet-18", lambda: ResNet((2, 2, 2, 2), (16, 24, 32, 48))),
    _classifier(
        "resnet-50", lambda: ResNet((3, 4, 6, 3), (32, 64, 96, 128), groups=1), tolerance=ROUNDED
    ),
    _classifier(
        "resnext-50", lambda: ResNet((3, 4, 6, 3), (32, 64, 96, 128), groups=4), tolerance=ROUNDED
    ),
    _classifier("densenet-121", DenseNet),
    _classifier("inception-v3", InceptionNet),
    _classifier("squeezenet", lambda: kept_alive(SqueezeNet())),
)
