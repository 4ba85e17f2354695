"""Networks that read an image at computed places (grid_sample), and one with overlaps removed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import grid_sample, interpolate

from architectures.architecture import Architecture
from architectures.convolution import Attention, Basic, ConvBn, Mlp, images
from architectures.detection import Fpn, grid


class Deformable(nn.Module):
    """Multi-scale deformable attention (Zhu et al. 2020), by grid_sample."""

    def __init__(self, width, heads=4, levels=3, points=4):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, places, maps):
        """Read ``maps`` at offsets around ``places`` (batch, queries, 2), each from 0 to 1."""
        b, n, c = x.shape
        shape = (b, n, self.heads, self.levels, self.points)
        offsets = self.offsets(x).view(*shape, 2)
        weights = self.weights(x).view(b, n, self.heads, -1).softmax(-1)
        found = []
        for level, image in enumerate(maps):
            h, w = image.shape[-2:]
            value = self.value(image.flatten(2).transpose(1, 2)).transpose(1, 2)
            value = value.reshape(b * self.heads, c // self.heads, h, w)
            scale = torch.tensor([w, h], dtype=torch.float32)
            at = places[:, :, None, None] + offsets[:, :, :, level] / scale
            at = (2 * at - 1).transpose(1, 2).flatten(0, 1)
            found.append(grid_sample(value, at, "bilinear", "zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(b * self.heads, 1, n, -1)
        joined = (torch.stack(found, -2).flatten(-2) * weights).sum(-1)
        return self.out(joined.view(b, c, n).transpose(1, 2))


class DeformableLayer(nn.Module):
    """A decoder layer of deformable DETR."""

    def __init__(self, width):
        super().__init__()
        self.own, self.cross, self.mlp = (
            Attention(width, 4),
            Deformable(width),
            Mlp(width, 2 * width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, places, maps):
        x = self.norms[0](x + self.own(x))
        x = self.norms[1](x + self.cross(x, places, maps))
        return self.norms[2](x + self.mlp(x))


class DeformableDetr(nn.Module):
    """Deformable DETR with boxes that each layer refines."""

    def __init__(self, width=24, queries=20, depth=6, classes=5):
        super().__init__()
        self.fpn, self.queries = Fpn(width), nn.Parameter(torch.randn(queries, width))
        self.places = nn.Linear(width, 2)
        self.layers = nn.ModuleList(DeformableLayer(width) for _ in range(depth))
        self.shift = nn.ModuleList(nn.Linear(width, 2) for _ in range(depth))
        self.scores, self.sizes = nn.Linear(width, classes), nn.Linear(width, 2)

    def forward(self, image):
        maps = self.fpn(image)
        x = self.queries.expand(image.shape[0], -1, -1)
        places = self.places(x).sigmoid()
        for layer, shift in zip(self.layers, self.shift, strict=True):
            x = layer(x, places, maps)
            inverse = torch.log(places.clamp(1e-5) / (1 - places).clamp(1e-5))
            places = (inverse + shift(x)).sigmoid()
        return self.scores(x), torch.cat((places, self.sizes(x).sigmoid()), -1)


class Update(nn.Module):
    """RAFT's recurrent unit: a convolutional GRU that sees correlations and the flow."""

    def __init__(self, width, correlations):
        super().__init__()
        self.see, self.flow = nn.Conv2d(correlations, width, 1), nn.Conv2d(2, width, 7, padding=3)
        both = 4 * width
        self.update = nn.Conv2d(both, width, 3, padding=1)
        self.reset = nn.Conv2d(both, width, 3, padding=1)
        self.fresh = nn.Conv2d(both, width, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.shift = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, state, context, near, flow):
        x = torch.cat([context, torch.relu(self.see(near)), torch.relu(self.flow(flow))], 1)
        both = torch.cat([state, x], 1)
        update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
        fresh = torch.tanh(self.fresh(torch.cat([reset * state, x], 1)))
        state = (1 - update) * state + update * fresh
        return state, self.shift(self.head(state))


class Raft(nn.Module):
    """RAFT (Teed, Deng 2020): all-pairs correlations in a pyramid, looked up while flow grows."""

    def __init__(self, width=24, rounds=6, radius=3, levels=3):
        super().__init__()
        self.rounds, self.radius, self.levels = rounds, radius, levels
        self.features = self._encoder(width, nn.InstanceNorm2d)
        self.context = self._encoder(2 * width, nn.BatchNorm2d)
        self.update = Update(width, levels * (2 * radius + 1) ** 2)
        self.mask = nn.Conv2d(width, 64 * 9, 1)
        line = torch.arange(-radius, radius + 1, dtype=torch.float32)
        near = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
        self.register_buffer("near", near.reshape(1, 2 * radius + 1, 2 * radius + 1, 2))

    @staticmethod
    def _encoder(width, norm):
        layers = [nn.Conv2d(3, 16, 7, 2, 3), norm(16), nn.ReLU()]
        layers += [Basic(16, 16), Basic(16, 24, 2), Basic(24, 32, 2)]
        return nn.Sequential(*layers, nn.Conv2d(32, width, 1))

    def look_up(self, pyramid, at):
        """Read each pixel's correlations around ``at`` (batch, 2, height, width)."""
        b, _, h, w = at.shape
        side, found = 2 * self.radius + 1, []
        for level, image in enumerate(pyramid):
            place = at.permute(0, 2, 3, 1).reshape(b * h * w, 1, 1, 2) / 2**level + self.near
            x, y = place.split([1, 1], -1)
            x, y = 2 * x / (image.shape[3] - 1) - 1, 2 * y / (image.shape[2] - 1) - 1
            read = grid_sample(image, torch.cat([x, y], -1), align_corners=True)
            found.append(read.view(b, h, w, side * side))
        return torch.cat(found, -1).permute(0, 3, 1, 2)

    def upsampled(self, flow, mask):
        """Return eight times larger flow: each pixel a weighted mean of nine coarse ones."""
        b, _, h, w = flow.shape
        mask = mask.view(b, 1, 9, 8, 8, h, w).softmax(2)
        near = nn.functional.unfold(8 * flow, 3, padding=1).view(b, 2, 9, 1, 1, h, w)
        return (mask * near).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(b, 2, 8 * h, 8 * w)

    def forward(self, first, second):
        one, two = self.features(first), self.features(second)
        b, c, h, w = one.shape
        pairs = one.flatten(2).transpose(1, 2) @ two.flatten(2) / c**0.5
        pyramid = [pairs.reshape(b * h * w, 1, h, w)]
        for _ in range(self.levels - 1):
            pyramid.append(nn.functional.avg_pool2d(pyramid[-1], 2))
        state, context = self.context(first).chunk(2, 1)
        state, context = torch.tanh(state), torch.relu(context)
        start = grid(one, 1).sub(0.5).view(h, w, 2).permute(2, 0, 1)[None]
        at = start.repeat(b, 1, 1, 1)
        for _ in range(self.rounds):
            near = self.look_up(pyramid, at)
            state, shift = self.update(state, context, near, at - start)
            at = at + shift
        return self.upsampled(at - start, 0.25 * self.mask(state))


class Transformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015): the image is turned by a learned matrix."""

    def __init__(self, classes=10):
        super().__init__()
        self.look = nn.Sequential(ConvBn(3, 8, 7, 2), ConvBn(8, 16, 5, 2), nn.AdaptiveAvgPool2d(2))
        self.matrix = nn.Linear(64, 6)
        self.body = nn.Sequential(ConvBn(3, 16, 3, 2), ConvBn(16, 32, 3, 2), ConvBn(32, 32, 3, 2))
        self.head = nn.Linear(32, classes)

    def forward(self, image):
        matrix = self.matrix(self.look(image).flatten(1)).view(-1, 2, 3)
        places = nn.functional.affine_grid(matrix, list(image.shape), align_corners=False)
        turned = grid_sample(image, places, padding_mode="border", align_corners=False)
        turned = interpolate(turned, size=(48, 48), mode="bicubic", align_corners=False)
        return self.head(self.body(turned).amax((2, 3)))


def _frames(sizes):
    shape = (sizes["batch"], 3, 64, 64)
    return {"first": torch.randn(shape), "second": torch.randn(shape)}


SAMPLING = (
    Architecture(
        "deformable-detr", "detection", DeformableDetr, images(), {"image": {0: "batch"}},
        ("scores", "boxes"),
    ),
    Architecture(
        "raft", "optical flow", Raft, _frames, {"first": {0: "batch"}, "second": {0: "batch"}},
        ("flow",), tolerance=1e-3,
    ),
    Architecture(
        "spatial-transformer", "classification", Transformer, images(), {"image": {0: "batch"}},
        ("logits",),
    ),
)  # fmt: skip
