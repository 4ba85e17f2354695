"""Networks that find objects: with anchors, without, and with queries."""

from __future__ import annotations

import math

import torch
from torch import nn

from architectures.architecture import Architecture
from architectures.convolution import (
    IMAGE_AXES,
    IMAGE_RANGES,
    Attention,
    Block,
    ConvBn,
    Mlp,
    Stages,
    images,
    sized_images,
)


def grid(x, stride):
    """Return the centres of the cells of a feature map in pixels, (height * width, 2)."""
    rows = (torch.arange(x.shape[2], dtype=torch.float32, device=x.device) + 0.5) * stride
    columns = (torch.arange(x.shape[3], dtype=torch.float32, device=x.device) + 0.5) * stride
    high, wide = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((wide, high), -1).reshape(-1, 2)


class Fpn(nn.Module):
    """Feature pyramid network (Lin et al. 2016) on the last three maps of ResNet-18."""

    def __init__(self, width=24):
        super().__init__()
        self.backbone = Stages()
        self.side = nn.ModuleList(nn.Conv2d(w, width, 1) for w in (24, 32, 48))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, image):
        sides = [side(x) for side, x in zip(self.side, self.backbone(image)[1:], strict=True)]
        found, maps = sides[-1], [sides[-1]]
        for side in sides[-2::-1]:
            found = side + nn.functional.interpolate(found, size=side.shape[-2:], mode="nearest")
            maps.insert(0, found)
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]


class RetinaNet(nn.Module):
    """RetinaNet (Lin et al. 2017): class scores and decoded boxes of anchors at three levels."""

    def __init__(self, width=24, classes=5):
        super().__init__()
        self.fpn, self.classes = Fpn(width), classes
        self.scores = self._head(width, 9 * classes)
        self.offsets = self._head(width, 9 * 4)
        sides = [2 ** (i / 3) * math.sqrt(r) for i in range(3) for r in (0.5, 1.0, 2.0)]
        self.register_buffer("sizes", torch.tensor([(s, 1 / s) for s in sides]) * 4)

    @staticmethod
    def _head(width, out):
        layers = [ConvBn(width, width) for _ in range(4)]
        return nn.Sequential(*layers, nn.Conv2d(width, out, 3, padding=1))

    def forward(self, image):
        scores, boxes = [], []
        for index, x in enumerate(self.fpn(image)):
            stride = 8 * 2**index
            score = self.scores(x).permute(0, 2, 3, 1)
            scores.append(score.reshape(x.shape[0], -1, self.classes).sigmoid())
            offset = self.offsets(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
            centre = grid(x, stride).repeat_interleave(9, 0)
            size = (self.sizes * stride).repeat(x.shape[2] * x.shape[3], 1)
            middle = centre + offset[..., :2] * size
            half = offset[..., 2:].clamp(max=4.0).exp() * size / 2
            boxes.append(torch.cat((middle - half, middle + half), -1))
        return torch.cat(scores, 1), torch.cat(boxes, 1)


class Csp(nn.Module):
    """YOLOv8's C2f block."""

    def __init__(self, width, depth=2):
        super().__init__()
        self.first = ConvBn(width, width, 1, act=nn.SiLU)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ConvBn(width // 2, width // 2, act=nn.SiLU) for _ in range(2)))
            for _ in range(depth)
        )
        self.last = ConvBn(width // 2 * (depth + 2), width, 1, act=nn.SiLU)

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Three poolings in a row, put side by side."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = ConvBn(width, width // 2, 1), ConvBn(2 * width, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Yolo(nn.Module):
    """YOLOv8: CSP backbone, path aggregation, distributions over distances; boxes and scores."""

    def __init__(self, widths=(16, 24, 32, 48), classes=5, bins=8):
        super().__init__()
        a, b, c, d = widths
        self.bins, self.classes = bins, classes
        self.stem = nn.Sequential(ConvBn(3, 8, 3, 2, act=nn.SiLU), ConvBn(8, a, 3, 2), Csp(a))
        self.down1 = nn.Sequential(ConvBn(a, b, 3, 2, act=nn.SiLU), Csp(b))
        self.down2 = nn.Sequential(ConvBn(b, c, 3, 2, act=nn.SiLU), Csp(c))
        self.down3 = nn.Sequential(ConvBn(c, d, 3, 2, act=nn.SiLU), Csp(d), Sppf(d))
        self.up1 = nn.Sequential(ConvBn(c + d, c, 1), Csp(c))
        self.up2 = nn.Sequential(ConvBn(b + c, b, 1), Csp(b))
        self.low1, self.back1 = ConvBn(b, b, 3, 2), nn.Sequential(ConvBn(b + c, c, 1), Csp(c))
        self.low2, self.back2 = ConvBn(c, c, 3, 2), nn.Sequential(ConvBn(c + d, d, 1), Csp(d))
        self.heads = nn.ModuleList(
            nn.Sequential(ConvBn(w, w, act=nn.SiLU), nn.Conv2d(w, 4 * bins + classes, 1))
            for w in (b, c, d)
        )
        self.register_buffer("distances", torch.arange(bins, dtype=torch.float32))

    def maps(self, image):
        one = self.down1(self.stem(image))
        two = self.down2(one)
        three = self.down3(two)
        up = nn.functional.interpolate(three, scale_factor=2.0)
        middle = self.up1(torch.cat([up, two], 1))
        up = nn.functional.interpolate(middle, scale_factor=2.0)
        fine = self.up2(torch.cat([up, one], 1))
        middle = self.back1(torch.cat([self.low1(fine), middle], 1))
        return fine, middle, self.back2(torch.cat([self.low2(middle), three], 1))

    def forward(self, image):
        boxes, scores = [], []
        for index, (x, head) in enumerate(zip(self.maps(image), self.heads, strict=True)):
            stride, found = 8 * 2**index, head(x).flatten(2)
            far, score = found.split((4 * self.bins, self.classes), 1)
            far = far.unflatten(1, (4, self.bins)).permute(0, 3, 1, 2).softmax(-1) @ self.distances
            left, right = (far * stride).chunk(2, -1)
            centre = grid(x, stride)
            boxes.append(torch.cat((centre - left, centre + right), -1))
            scores.append(score.sigmoid())
        return torch.cat(boxes, 1), torch.cat(scores, 2)


def overlaps(boxes):
    """Return the intersection over union of all pairs of boxes of an image."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return both / (area[:, :, None] + area[:, None] - both + 1e-6)


class YoloBest(Yolo):
    """The best twenty boxes of an image, overlaps suppressed by Fast NMS (Bolya et al. 2019)."""

    def forward(self, image):
        boxes, scores = super().forward(image)
        best, kind = scores.max(1)
        score, index = best.topk(20, 1)
        chosen = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        worst = overlaps(chosen).triu(1).amax(1)
        return chosen, torch.where(worst > 0.5, 0.0, score), kind.gather(1, index)


class CenterNet(nn.Module):
    """CenterNet (Zhou et al. 2019): peaks of a heat map, found by pooling, and their sizes."""

    def __init__(self, classes=5):
        super().__init__()
        self.backbone = Stages()
        self.up = nn.Sequential(
            *(
                nn.Sequential(nn.ConvTranspose2d(i, 24, 4, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
                for i in (48, 24, 24)
            )
        )
        self.heat, self.size = nn.Conv2d(24, classes, 1), nn.Conv2d(24, 4, 1)

    def forward(self, image):
        x = self.up(self.backbone(image)[-1])
        heat, size = self.heat(x).sigmoid(), self.size(x)
        peak = heat * (nn.functional.max_pool2d(heat, 3, 1, 1) == heat)
        b, _, h, w = peak.shape
        score, index = peak.reshape(b, -1).topk(10)
        place, kind = index % (h * w), torch.div(index, h * w, rounding_mode="floor")
        size = size.flatten(2).transpose(1, 2)
        size = size.gather(1, place.unsqueeze(2).expand(b, 10, 4))
        column, row = (place % w).float(), torch.div(place, w, rounding_mode="trunc").float()
        centre = torch.stack((column, row), -1) + size[..., :2]
        return torch.cat((centre - size[..., 2:] / 2, centre + size[..., 2:] / 2), -1), score, kind


class Decoder(nn.Module):
    """A layer of DETR's decoder: queries see one another, then the image."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.mlp = Mlp(width, 2 * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, query, memory):
        x = self.norms[0](x + self.own(x + query))
        x = self.norms[1](x + self.cross(x + query, memory))
        return self.norms[2](x + self.mlp(x))


class Detr(nn.Module):
    """DETR (Carion et al. 2020): six encoder and six decoder layers on ResNet-18."""

    def __init__(self, width=48, queries=20, classes=5):
        super().__init__()
        self.backbone, self.narrow = Stages(), nn.Conv2d(48, width, 1)
        self.encoder = nn.Sequential(*(Block(width, 4, 2) for _ in range(6)))
        self.decoder = nn.ModuleList(Decoder(width) for _ in range(6))
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.scores, self.boxes = nn.Linear(width, classes + 1), nn.Linear(width, 4)
        self.register_buffer("waves", 10000 ** (-torch.arange(0, width // 2, 2) / (width // 2)))

    def position(self, x):
        """Sine and cosine of the row and of the column, from 0 to 2π."""
        b, _, h, w = x.shape
        ones = torch.ones(b, h, w)
        parts = []
        for axis in (1, 2):
            at = ones.cumsum(axis)
            at = at / (at.select(axis, -1).unsqueeze(axis) + 1e-6) * 2 * math.pi
            angle = at[..., None] * self.waves
            parts.append(torch.stack((angle.sin(), angle.cos()), -1).flatten(3))
        return torch.cat(parts, -1).flatten(1, 2)

    def forward(self, image):
        x = self.narrow(self.backbone(image)[-1])
        memory = self.encoder(x.flatten(2).transpose(1, 2) + self.position(x))
        query = self.queries.unsqueeze(0).repeat(x.shape[0], 1, 1)
        found = torch.zeros_like(query)
        for layer in self.decoder:
            found = layer(found, query, memory)
        return self.scores(found), self.boxes(found).sigmoid()


def _sized(name, make, outputs):
    return Architecture(name, "detection", make, sized_images, IMAGE_AXES, outputs, IMAGE_RANGES)


DETECTION = (
    _sized("retinanet", RetinaNet, ("scores", "boxes")),
    _sized("yolo-v8", Yolo, ("boxes", "scores")),
    Architecture(
        "yolo-fast-nms", "detection", YoloBest, images(), {"image": {0: "batch"}},
        ("boxes", "scores", "classes"),
    ),
    _sized("centernet", CenterNet, ("boxes", "scores", "classes")),
    _sized("detr", Detr, ("scores", "boxes")),
)  # fmt: skip
