"""The cases of ``h200_ops.py``: every op at its sizes, and the same computation in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import trtforge_ops as ops
from torch.nn import functional

from trtforge import CustomOp

HALF = torch.float16
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One op at one size, and the same in PyTorch."""

    name: str
    op: CustomOp
    make: Callable[[], Tensors]
    """Makes new random inputs."""
    peer: Callable[..., Any]
    tolerance: float = 2e-3
    """Largest difference from PyTorch, relative to 1 + the magnitude: a few roundings in fp16, or
    one of FP8, which is 1/8 at most."""
    compiled: bool = True
    """Whether torch.compile is a peer too."""
    wide: bool = False
    """Whether PyTorch computes what is expected in float32, because it loses too much in fp16."""
    graph: bool = True
    """Whether PyTorch's function can be captured: it waits for nothing on the CPU."""

    def expected(self, inputs: Tensors) -> Any:
        """Return what PyTorch computes."""
        if not self.wide:
            return self.peer(*inputs)
        return self.peer(*(t.float() if t.dtype == HALF else t for t in inputs))


def random(*shape: int, dtype: torch.dtype = HALF, scale: float = 1.0) -> torch.Tensor:
    """Return normal numbers on the GPU."""
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def uniform(
    *shape: int, low: float = 0, high: float = 1, dtype: torch.dtype = HALF
) -> torch.Tensor:
    """Return uniform numbers on the GPU."""
    return torch.empty(*shape, device="cuda").uniform_(low, high).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor without dimensions on the GPU."""
    return torch.tensor(value, device="cuda", dtype=dtype)


def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Root mean square normalization, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * w.float()).to(x.dtype)


def add_rms(x: torch.Tensor, r: torch.Tensor, w: torch.Tensor) -> Tensors:
    """Return the normalized sum, and the sum."""
    total = x + r
    return rms(total, w), total


def layer_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Layer normalization along the last axis."""
    return functional.layer_norm(x, (x.shape[-1],), w, b)


def bias_gelu(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """GELU of the sum, by tanh."""
    return functional.gelu(x + b, approximate="tanh")


def bias_gelu_erf(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """GELU of the sum, by the error function."""
    return functional.gelu(x + b)


def swiglu(g: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up."""
    half = g.shape[-1] // 2
    return functional.silu(g[..., :half]) * g[..., half:]


def int8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Quantize to INT8."""
    return torch.clamp(torch.round(x.float() / scale), -128, 127).to(torch.int8)


def rms_fp8(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalize and quantize to FP8."""
    return (rms(x, w).float() / scale).to(torch.float8_e4m3fn)


def rope(q: torch.Tensor, c: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Rotate [batch, positions, heads, size]."""
    c, s = torch.cat((c, c), -1)[:, None], torch.cat((s, s), -1)[:, None]
    a, b = q.chunk(2, -1)
    return q * c + torch.cat((-b, a), -1) * s


def softmax(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax of masked scores."""
    return functional.softmax(x + mask, -1)


def group_norm(y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the group norm, channels first."""
    return functional.silu(functional.group_norm(y, 32, w, b))


def group_norm_nhwc(y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the group norm, channels last."""
    return group_norm(y.permute(0, 3, 1, 2), w, b).permute(0, 2, 3, 1)


def instance_norm(y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Instance normalization."""
    return functional.instance_norm(y, weight=w, bias=b)


def grid_sample(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Bilinear samples, zeros outside."""
    return functional.grid_sample(x, grid, align_corners=False)


def deform_conv(
    x: torch.Tensor, w: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, b: torch.Tensor
) -> Any:
    """Deformable convolution of torchvision."""
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, offset, w, b, padding=1, mask=mask)


def roi_align(x: torch.Tensor, rois: torch.Tensor, images: torch.Tensor) -> Any:
    """RoIAlign of torchvision."""
    from torchvision.ops import roi_align as peer

    return peer(x, torch.cat((images[:, None].float(), rois), 1), (7, 7), 0.5, 2)


def nms(boxes: torch.Tensor, scores: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    """Non-maximum suppression of torchvision, as rows of image, class and box."""
    from torchvision.ops import nms as peer

    kept = peer(boxes[0], scores[0, 0], 0.5)
    return functional.pad(kept[:, None], (2, 0))


def ms_deform(
    value: torch.Tensor, _: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Multi-scale deformable attention as its authors write it with grid_sample."""
    n, _pixels, heads, size = value.shape
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    parts = value.split([h * w for h, w in LEVELS], 1)
    grids = 2 * locations - 1
    out = []
    for i, (height, width) in enumerate(LEVELS):
        part = parts[i].flatten(2).transpose(1, 2).reshape(n * heads, size, height, width)
        grid = grids[:, :, :, i].transpose(1, 2).flatten(0, 1)
        out.append(functional.grid_sample(part, grid, align_corners=False))
    share = weights.transpose(1, 2).reshape(n * heads, 1, queries, levels * points)
    total = (torch.stack(out, -2).flatten(-2) * share).sum(-1)
    return total.view(n, heads * size, queries).transpose(1, 2).contiguous()


def inverse(x: torch.Tensor) -> Any:
    """Inverses, without the check that waits for the GPU."""
    return torch.linalg.inv_ex(x).inverse


def unique(x: torch.Tensor) -> Tensors:
    """Sorted values, where each was first, which each element is, how often each is there."""
    values, at, counts = torch.unique(x, return_inverse=True, return_counts=True)
    places = torch.arange(len(x), device=x.device)
    first = torch.full_like(values, len(x)).scatter_reduce(0, at, places, "amin")
    return values, first, at, counts


def voxelize(points: torch.Tensor) -> Tensors:
    """Gather points by cells: sorted by the cell's number, as they come within it."""
    op = ops.Voxelize()
    low, size, grid = (torch.tensor(v, device="cuda") for v in (op.low, op.size, op.grid))
    cell = ((points[:, :3] - low) / size).floor()
    inside = ((cell >= 0) & (cell < grid)).all(1)
    steps = torch.tensor([1, op.grid[0], op.grid[0] * op.grid[1]], device="cuda")
    number, order = (cell[inside].long() * steps).sum(1).sort(stable=True)
    found, at, lengths = number.unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(number), device="cuda") - (lengths.cumsum(0) - lengths)[at]
    fits = (rank < op.most_points) & (at < op.most_voxels)
    count = min(len(found), op.most_voxels)
    voxels = points.new_zeros(count, op.most_points, points.shape[1])
    voxels[at[fits], rank[fits]] = points[inside][order][fits]
    kept, row, rows = found[:count], op.grid[0], op.grid[1]
    cells = torch.stack((kept // row // rows, kept // row % rows, kept % row), 1)
    return voxels, cells, lengths[:count].clamp(max=op.most_points)


def scatter(data: torch.Tensor, places: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    """Add rows to rows."""
    return data.index_add(0, places[:, 0], updates)


LEVELS = ((100, 134), (50, 67), (25, 34), (13, 17))
ROWS = {"small": (1024, 1024), "medium": (8192, 2560), "large": (16384, 4096)}
SCORES = {"small": (1, 8, 512), "medium": (4, 16, 1024), "large": (1, 4, 4096)}
IMAGES = {"small": (1, 320, 64), "medium": (2, 640, 64), "large": (8, 320, 128)}
SEQUENCES = {"small": (1, 512), "medium": (2, 2048), "large": (8, 4096)}


def row_cases(size: str) -> Iterator[Case]:
    """Yield the ops on rows at one size."""
    n, c = ROWS[size]
    yield Case(f"rms_norm {size}", ops.RMSNorm(), lambda: (random(n, c), random(c)), rms)
    yield Case(f"add_rms_norm {size}", ops.AddRMSNorm(),
               lambda: (random(n, c), random(n, c), random(c)), add_rms)  # fmt: skip
    yield Case(f"layer_norm {size}", ops.LayerNorm(),
               lambda: (random(n, c), random(c), random(c)), layer_norm, 4e-3)  # fmt: skip
    yield Case(f"bias_gelu_tanh {size}", ops.BiasGelu(approximate="tanh"),
               lambda: (random(n, c), random(c)), bias_gelu, 4e-3)  # fmt: skip
    yield Case(f"bias_gelu_erf {size}", ops.BiasGelu(),
               lambda: (random(n, c), random(c)), bias_gelu_erf, 4e-3)  # fmt: skip
    yield Case(f"swiglu {size}", ops.GatedActivation(), lambda: (random(n, 2 * c),), swiglu, 4e-3)
    yield Case(f"quantize_int8 {size}", ops.QuantizeInt8(),
               lambda: (random(n, c, scale=30), scalar(1 / 0.03)), int8)  # fmt: skip
    yield Case(f"rms_norm_fp8 {size}", ops.RMSNormQuantize(),
               lambda: (random(n, c), random(c), scalar(2.0)), rms_fp8, 0.125)  # fmt: skip
    batch, positions = SEQUENCES[size]
    yield Case(f"rope {size}", ops.RotaryEmbedding(heads_last=True),
               lambda: (random(batch, positions, 32, 128), random(positions, 64),
                        random(positions, 64)), rope, 6e-3)  # fmt: skip


def tensor_cases(size: str) -> Iterator[Case]:
    """Yield softmax and the norms of images at one size."""
    batch, heads, length = SCORES[size]
    scores = batch, heads, length, length
    yield Case(f"softmax {size}", ops.MaskedSoftmax(),
               lambda: (random(*scores), random(batch, 1, length, length)), softmax)  # fmt: skip
    yield Case(f"softmax_row_mask {size}", ops.MaskedSoftmax(),
               lambda: (random(*scores), random(batch, 1, 1, length)), softmax)  # fmt: skip
    n, c, s = IMAGES[size]
    yield Case(f"group_norm_silu_nchw {size}", ops.GroupNorm(activation="silu"),
               lambda: (random(n, c, s, s), random(c), random(c)), group_norm, 6e-3)  # fmt: skip
    yield Case(f"group_norm_silu_nhwc {size}", ops.GroupNormNHWC(activation="silu"),
               lambda: (random(n, s, s, c), random(c), random(c)),
               group_norm_nhwc, 6e-3)  # fmt: skip
    yield Case(f"instance_norm {size}", ops.InstanceNorm(),
               lambda: (random(n, c, s, s), random(c), random(c)), instance_norm, 6e-3)  # fmt: skip


def sampling_cases() -> Iterator[Case]:
    """Yield the ops that sample and select, at the sizes of the peers."""
    yield Case("grid_sample_2d", ops.GridSample(),
               lambda: (random(8, 64, 256, 256), uniform(8, 256, 256, 2, low=-1)),
               grid_sample, 6e-3, compiled=False)  # fmt: skip
    yield Case("grid_sample_3d", ops.GridSample3D(),
               lambda: (random(2, 32, 32, 128, 128), uniform(2, 32, 128, 128, 3, low=-1)),
               grid_sample, 6e-3, compiled=False)  # fmt: skip
    wide = torch.float32
    yield Case("deform_conv", ops.DeformConv(pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
               lambda: (random(8, 64, 128, 128, dtype=wide), random(64, 64, 3, 3, dtype=wide),
                        random(8, 18, 128, 128, dtype=wide), uniform(8, 9, 128, 128, dtype=wide),
                        random(64, dtype=wide)), deform_conv, 1e-4, compiled=False)  # fmt: skip

    def rois() -> Tensors:
        corner = uniform(1000, 2, high=200, dtype=wide)
        end = corner + uniform(1000, 2, low=20, high=220, dtype=wide)
        image = torch.randint(0, 2, (1000,), device="cuda")
        return random(2, 256, 200, 304, dtype=wide), torch.cat((corner, end), 1), image

    op = ops.RoiAlign("avg", 7, 7, 2, 0.5, "output_half_pixel")
    yield Case("roi_align", op, rois, roi_align, 1e-4, compiled=False)

    def boxes() -> Tensors:
        corner = uniform(1, 20000, 2, high=1000, dtype=wide)
        order = torch.randperm(20000, device="cuda").float().reshape(1, 1, -1) / 20000
        most = torch.full((1,), 20000, device="cuda")
        limits = scalar(0.5).reshape(1), scalar(-1.0).reshape(1)
        return torch.cat((corner, corner + 50), 2), order, most, *limits

    yield Case("nms", ops.NonMaxSuppression(), boxes, nms, 0, compiled=False, graph=False)
    pixels = sum(h * w for h, w in LEVELS)
    yield Case("ms_deform_attn", ops.MultiScaleDeformableAttention(),
               lambda: (random(8, pixels, 8, 32), torch.tensor(LEVELS, device="cuda"),
                        uniform(8, pixels, 8, 4, 4, 2), uniform(8, pixels, 8, 4, 4)),
               ms_deform, 6e-3, wide=True)  # fmt: skip


def array_cases() -> Iterator[Case]:
    """Yield scatters, running sums, selections and small matrices."""
    wide = torch.float32

    def places(count: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, count, shape, device="cuda")

    def matrices() -> Tensors:
        return (torch.eye(16, device="cuda") + random(100_000, 16, 16, dtype=wide) / 10,)

    yield Case("scatter_nd_add", ops.ScatterND(),
               lambda: (random(100_000, 64, dtype=wide), places(100_000, 500_000, 1),
                        random(500_000, 64, dtype=wide)),
               scatter, 1e-4, compiled=False)  # fmt: skip
    yield Case("scatter_elements_add", ops.ScatterElements(0),
               lambda: (random(4096, 4096, dtype=wide), places(4096, 4096, 4096),
                        random(4096, 4096, dtype=wide)),
               lambda x, at, new: x.scatter_add(0, at, new), 1e-4, compiled=False)  # fmt: skip
    yield Case("cum_sum", ops.CumSum(), lambda: (random(8192, 8192, dtype=wide),),
               lambda x: x.cumsum(-1), 1e-3, compiled=False)  # fmt: skip
    yield Case("cum_sum_first_axis", ops.CumSum(0), lambda: (random(8192, 8192, dtype=wide),),
               lambda x: x.cumsum(0), 1e-3, compiled=False)  # fmt: skip
    yield Case("cum_prod", ops.CumProd(),
               lambda: (uniform(8192, 8192, low=0.99, high=1.01, dtype=wide),),
               lambda x: x.cumprod(-1), 1e-3, compiled=False)  # fmt: skip
    yield Case("compress", ops.Compress(),
               lambda: (random(100_000, 256), uniform(100_000) < 0.5),
               lambda x, keep: x[keep], 0, compiled=False, graph=False)  # fmt: skip
    yield Case("non_zero", ops.NonZero(), lambda: (random(4096, 4096).relu().float(),),
               torch.nonzero, 0, compiled=False, graph=False)  # fmt: skip
    yield Case("unique", ops.Unique(), lambda: (places(50_000, 1_000_000),), unique, 0,
               compiled=False, graph=False)  # fmt: skip
    yield Case("det", ops.Det(), matrices, torch.linalg.det, 1e-3, compiled=False, graph=False)
    yield Case("inverse", ops.Inverse(), matrices, inverse, 1e-3, compiled=False, graph=False)
    padded = ops.Col2Im(128, 128, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    yield Case("col2im", padded, lambda: (random(8, 64 * 9, 128 * 128),),
               lambda x: functional.fold(x, 128, 3, padding=1), 6e-3, compiled=False)  # fmt: skip

    def cloud() -> Tensors:
        place = uniform(120_000, 1, high=70, dtype=wide), random(120_000, 1, dtype=wide, scale=8)
        return (torch.cat((*place, uniform(120_000, 3, low=-3, dtype=wide)), 1),)

    yield Case("voxelize", ops.Voxelize(), cloud, voxelize, 0, compiled=False, graph=False)
    yield Case("bitwise_and", ops.Bitwise(),
               lambda: (places(2**31 - 1, 16384, 4096).int(), places(2**31 - 1, 16384, 4096).int()),
               torch.bitwise_and)  # fmt: skip


def every_case(sizes: list[str]) -> Iterator[Case]:
    """Yield all cases."""
    for size in sizes:
        yield from row_cases(size)
        yield from tensor_cases(size)
    yield from sampling_cases()
    yield from array_cases()
