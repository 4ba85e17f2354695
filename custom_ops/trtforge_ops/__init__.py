"""The custom ops that ship with trtforge."""

from __future__ import annotations

import trtforge
from trtforge_ops.add_rms_norm import AddRMSNorm
from trtforge_ops.bias_gelu import BiasGelu
from trtforge_ops.bitwise import Bitwise
from trtforge_ops.col2im import Col2Im
from trtforge_ops.compress import Compress
from trtforge_ops.cumulative import CumProd, CumSum
from trtforge_ops.deform_conv import DeformConv
from trtforge_ops.gated_activation import GatedActivation
from trtforge_ops.grid_sample import GridSample, GridSample3D
from trtforge_ops.group_norm import GroupNorm
from trtforge_ops.group_norm_nhwc import GroupNormNHWC
from trtforge_ops.instance_norm import InstanceNorm
from trtforge_ops.layer_norm import LayerNorm
from trtforge_ops.masked_softmax import MaskedSoftmax
from trtforge_ops.matrices import Det, Inverse
from trtforge_ops.ms_deform_attention import MultiScaleDeformableAttention
from trtforge_ops.non_max_suppression import NonMaxSuppression
from trtforge_ops.non_zero import NonZero
from trtforge_ops.quantize import QuantizeFloat8, QuantizeInt8
from trtforge_ops.rms_norm import RMSNorm
from trtforge_ops.rms_norm_quantize import RMSNormQuantize
from trtforge_ops.roi_align import RoiAlign
from trtforge_ops.rotary_embedding import RotaryEmbedding
from trtforge_ops.rotated_non_max_suppression import RotatedNonMaxSuppression
from trtforge_ops.scatter_elements import ScatterElements
from trtforge_ops.scatter_nd import ScatterND
from trtforge_ops.unique import Unique
from trtforge_ops.voxelize import Voxelize

OPS = (
    AddRMSNorm, BiasGelu, Bitwise, Col2Im, Compress, CumProd, CumSum, DeformConv, Det,
    GatedActivation, GridSample, GridSample3D, GroupNorm, GroupNormNHWC, InstanceNorm, Inverse,
    LayerNorm, MaskedSoftmax, MultiScaleDeformableAttention, NonMaxSuppression, NonZero,
    QuantizeFloat8, QuantizeInt8, RMSNorm, RMSNormQuantize, RoiAlign, RotaryEmbedding,
    RotatedNonMaxSuppression, ScatterElements, ScatterND, Unique, Voxelize,
)  # fmt: skip

__all__ = [
    "OPS",
    "AddRMSNorm",
    "BiasGelu",
    "Bitwise",
    "Col2Im",
    "Compress",
    "CumProd",
    "CumSum",
    "DeformConv",
    "Det",
    "GatedActivation",
    "GridSample",
    "GridSample3D",
    "GroupNorm",
    "GroupNormNHWC",
    "InstanceNorm",
    "Inverse",
    "LayerNorm",
    "MaskedSoftmax",
    "MultiScaleDeformableAttention",
    "NonMaxSuppression",
    "NonZero",
    "QuantizeFloat8",
    "QuantizeInt8",
    "RMSNorm",
    "RMSNormQuantize",
    "RoiAlign",
    "RotaryEmbedding",
    "RotatedNonMaxSuppression",
    "ScatterElements",
    "ScatterND",
    "Unique",
    "Voxelize",
    "trtforge_components",
]


@trtforge.hookimpl
def trtforge_components() -> tuple[type[trtforge.CustomOp], ...]:
    """Offer the ops."""
    return OPS
