"""Networks over points, rays, volumes and graphs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


class PointTransform(nn.Module):
    """PointNet's T-net: a matrix predicted from all points, close to the identity."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.points = nn.Sequential(*_shared((size, 32, 64, 128)))
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, size * size))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.head(self.points(x).max(2)[0]).view(-1, self.size, self.size)
        return matrix + torch.eye(self.size)


def _shared(widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Conv1d(narrow, wide, 1), nn.BatchNorm1d(wide), nn.ReLU()]
    return layers


class PointNet(nn.Module):
    """PointNet (Qi et al. 2016) with segmentation: each point sees itself and the whole cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.turn2 = PointTransform(3), PointTransform(32)
        self.first = nn.Sequential(*_shared((3, 32, 32)))
        self.second = nn.Sequential(*_shared((32, 32, 64, 256)))
        self.head = nn.Sequential(*_shared((288, 128, 64)), nn.Conv1d(64, 13, 1))

    def forward(self, points: Tensor) -> Tensor:
        x = torch.bmm(points.transpose(1, 2), self.turn(points)).transpose(1, 2)
        x = self.first(x)
        x = torch.bmm(x.transpose(1, 2), self.turn2(x)).transpose(1, 2)
        whole = self.second(x).max(2, keepdim=True)[0].expand(-1, -1, points.shape[2])
        return self.head(torch.cat([x, whole], 1)).log_softmax(1)


class PointPillars(nn.Module):
    """PointPillars (Lang et al. 2018): pillars of points, scattered into a bird's-eye view."""

    def __init__(self, width: int = 32, side: int = 32) -> None:
        super().__init__()
        self.side, self.width = side, width
        self.point, self.norm = nn.Linear(9, width, bias=False), nn.BatchNorm1d(width)
        self.blocks, self.ups = nn.ModuleList(), nn.ModuleList()
        for index in range(3):
            wide = width * 2**index
            layers: list[nn.Module] = []
            for narrow, stride in ((max(wide // 2, width), 2 if index else 1), (wide, 1)):
                conv = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
                layers += [conv, nn.BatchNorm2d(wide), nn.ReLU()]
            self.blocks.append(nn.Sequential(*layers))
            self.ups.append(nn.ConvTranspose2d(wide, width, 2**index, 2**index))
        self.boxes, self.scores = nn.Conv2d(3 * width, 14, 1), nn.Conv2d(3 * width, 2, 1)

    def forward(self, points: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """``points``: (pillars, points in each, 9); ``cells``: (pillars,), a cell for each."""
        x = self.norm(self.point(points).transpose(1, 2)).relu().max(2)[0]
        canvas = torch.zeros(self.side * self.side, self.width)
        canvas = canvas.index_put((cells,), x)
        view, levels = canvas.T.reshape(1, self.width, self.side, self.side), []
        for block, up in zip(self.blocks, self.ups, strict=True):
            view = block(view)
            levels.append(up(view))
        x = torch.cat(levels, 1)
        return self.boxes(x), self.scores(x).sigmoid()


class VolumeUnet(nn.Module):
    """3-D U-Net (Cicek et al. 2016), with the InstanceNorm and LeakyReLU of nnU-Net."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 48)) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.start = self._block(1, widths[0], 1)
        self.down = nn.ModuleList(self._block(a, b, 2) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(self._block(2 * a, a, 1) for a, _ in reversed(pairs))
        self.head = nn.Conv3d(widths[0], 4, 1)

    @staticmethod
    def _block(inp: int, out: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for narrow, step in ((inp, stride), (out, 1)):
            layers += [
                nn.Conv3d(narrow, out, 3, step, 1), nn.InstanceNorm3d(out, affine=True),
                nn.LeakyReLU(0.01),
            ]  # fmt: skip
        return nn.Sequential(*layers)

    def forward(self, volume: Tensor) -> Tensor:
        x = self.start(volume)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.head(x).softmax(1)


class GraphAttention(nn.Module):
    """GAT (Velickovic et al. 2017): messages weighted by a softmax over each node's edges."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        sizes = (16, width, width)
        self.project = nn.ModuleList(nn.Linear(a, width, bias=False) for a in sizes)
        self.near = nn.Parameter(torch.randn(3, heads, self.size) * 0.3)
        self.far = nn.Parameter(torch.randn(3, heads, self.size) * 0.3)
        self.head = nn.Linear(width, 7)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """``nodes``: (nodes, 16); ``edges``: (2, edges), from where to where."""
        start, end = edges[0], edges[1]
        x = nodes
        for index, project in enumerate(self.project):
            x = F.elu(self._layer(project(x), start, end, index))
        return self.head(x).log_softmax(-1)

    def _layer(self, x: Tensor, start: Tensor, end: Tensor, index: int) -> Tensor:
        count = x.shape[0]
        x = x.view(count, self.heads, self.size)
        near, far = (x * self.near[index]).sum(-1), (x * self.far[index]).sum(-1)
        score = F.leaky_relu(near[start] + far[end], 0.2)
        weight = (score - score.max()).exp()
        total = torch.zeros_like(near).scatter_add(0, end[:, None].expand_as(weight), weight)
        weight = weight / (total[end] + 1e-16)
        message = x[start] * weight[..., None]
        place = end[:, None, None].expand_as(message)
        return torch.zeros_like(x).scatter_add(0, place, message).flatten(1)


class GraphConvolution(nn.Module):
    """GCN (Kipf and Welling 2016) over a dense adjacency matrix, normalized by degree."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, width) for a in (16, width, width))
        self.head = nn.Linear(width, 7)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """``nodes``: (batch, nodes, 16); ``adjacency``: (batch, nodes, nodes), 0 or 1."""
        whole = adjacency + torch.eye(adjacency.shape[1], device=nodes.device)
        scale = whole.sum(-1).clamp(min=1).rsqrt()
        whole = whole * scale[:, :, None] * scale[:, None, :]
        x = nodes
        for layer in self.layers:
            x = F.relu(whole @ layer(x))
        return self.head(x.mean(1))


class RadianceField(nn.Module):
    """NeRF (Mildenhall et al. 2020): encoded points and directions, and the pixel of each ray."""

    def __init__(self, width: int = 64, layers: int = 8) -> None:
        super().__init__()
        self.register_buffer("places", 2.0 ** torch.arange(10))
        self.register_buffer("turns", 2.0 ** torch.arange(4))
        sizes = [63 if i == 0 else width + 63 if i == 5 else width for i in range(layers)]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.side, self.color = nn.Linear(width + 27, width // 2), nn.Linear(width // 2, 3)

    @staticmethod
    def _encoded(x: Tensor, rates: Tensor) -> Tensor:
        angles = (x[..., None, :] * rates[:, None]).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], -1)

    def forward(self, origin: Tensor, direction: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and directions (rays, 3), depths (rays, samples) in rising order."""
        points = origin[:, None] + direction[:, None] * depth[..., None]
        start = self._encoded(points, self.places)
        x = start
        for index, layer in enumerate(self.layers):
            x = F.relu(layer(torch.cat([start, x], -1) if index == 5 else x))
        view = F.normalize(direction, dim=-1)[:, None].expand(-1, depth.shape[1], -1)
        side = torch.cat([self.feature(x), self._encoded(view, self.turns)], -1)
        color = torch.sigmoid(self.color(F.relu(self.side(side))))
        gaps = torch.cat([depth[:, 1:] - depth[:, :-1], torch.full_like(depth[:, :1], 8.0)], 1)
        thickness = F.softplus(self.density(x).squeeze(-1)) * gaps
        clear = torch.exp(thickness - thickness.cumsum(1))
        weights = clear * (1 - torch.exp(-thickness))
        return (weights[..., None] * color).sum(1), (weights * depth).sum(1)


def _rays(sizes: Sizes) -> dict[str, Tensor]:
    rays = sizes["rays"]
    depth = torch.rand(rays, 32).sort(1)[0] * 4 + 2
    return {"origin": torch.randn(rays, 3), "direction": torch.randn(rays, 3), "depth": depth}


def _pillars(sizes: Sizes) -> dict[str, Tensor]:
    cells = torch.randperm(32 * 32)[: sizes["pillars"]]
    return {"points": torch.randn(sizes["pillars"], 16, 9), "cells": cells}


def _graph(sizes: Sizes) -> dict[str, Tensor]:
    edges = torch.randint(0, sizes["nodes"], (2, sizes["edges"]))
    return {"nodes": torch.randn(sizes["nodes"], 16), "edges": edges}


def _dense_graph(sizes: Sizes) -> dict[str, Tensor]:
    batch, nodes = sizes["batch"], sizes["nodes"]
    linked = (torch.rand(batch, nodes, nodes) < 0.3).float()
    return {"nodes": torch.randn(batch, nodes, 16), "adjacency": linked}


SPACE = (
    Architecture(
        "pointnet", "3-D", PointNet,
        lambda sizes: {"points": torch.randn(sizes["batch"], 3, sizes["points"])},
        {"points": {0: "batch", 2: "points"}}, ("scores",),
        {"batch": BATCH, "points": Range(32, 128, 256)},
    ),
    Architecture(
        "point-pillars", "3-D", PointPillars, _pillars,
        {"points": {0: "pillars"}, "cells": {0: "pillars"}}, ("boxes", "scores"),
        {"pillars": Range(8, 64, 256)},
    ),
    Architecture(
        "radiance-field", "3-D", RadianceField, _rays,
        {"origin": {0: "rays"}, "direction": {0: "rays"}, "depth": {0: "rays"}},
        ("color", "distance"), {"rays": Range(1, 16, 64)},
    ),
    Architecture(
        "volume-unet", "3-D", VolumeUnet,
        lambda sizes: {"volume": torch.randn(sizes["batch"], 1, 16, 16, 16)},
        {"volume": {0: "batch"}}, ("classes",),
    ),
    Architecture(
        "graph-attention", "graphs", GraphAttention, _graph,
        {"nodes": {0: "nodes"}, "edges": {1: "edges"}}, ("classes",),
        {"nodes": Range(4, 20, 64), "edges": Range(6, 60, 200)},
    ),
    Architecture(
        "graph-convolution", "graphs", GraphConvolution, _dense_graph,
        {"nodes": {0: "batch", 1: "nodes"}, "adjacency": {0: "batch", 1: "nodes", 2: "nodes"}},
        ("classes",), {"batch": BATCH, "nodes": Range(4, 12, 32)},
    ),
)  # fmt: skip
