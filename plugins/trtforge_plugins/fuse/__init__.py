"""Passes that put a custom op in place of the nodes that compute the same."""

from trtforge_plugins.fuse.bias_gelu import FuseBiasGelu
from trtforge_plugins.fuse.gated_activation import FuseGatedActivation
from trtforge_plugins.fuse.group_norm import FuseGroupNorm
from trtforge_plugins.fuse.instance_norm import FuseInstanceNorm
from trtforge_plugins.fuse.layer_norm import FuseLayerNorm
from trtforge_plugins.fuse.masked_softmax import FuseMaskedSoftmax
from trtforge_plugins.fuse.rms_norm import FuseRMSNorm
from trtforge_plugins.fuse.rotary_embedding import FuseRotaryEmbedding
from trtforge_plugins.fuse.use_custom_ops import UseCustomOps

__all__ = [
    "FuseBiasGelu",
    "FuseGatedActivation",
    "FuseGroupNorm",
    "FuseInstanceNorm",
    "FuseLayerNorm",
    "FuseMaskedSoftmax",
    "FuseRMSNorm",
    "FuseRotaryEmbedding",
    "UseCustomOps",
]
