"""Clean-up passes: what every model needs before anything else looks at it."""

from trtforge_plugins.clean.cut_padding import CutPadding
from trtforge_plugins.clean.dedupe_weights import DedupeWeights
from trtforge_plugins.clean.drop_dead_code import DropDeadCode
from trtforge_plugins.clean.drop_identity import DropIdentity
from trtforge_plugins.clean.fold_batchnorm import FoldBatchnorm
from trtforge_plugins.clean.fold_constants import FoldConstants
from trtforge_plugins.clean.infer_shapes import InferShapes
from trtforge_plugins.clean.merge_duplicates import MergeDuplicates
from trtforge_plugins.clean.merge_padding import MergePadding
from trtforge_plugins.clean.merge_views import MergeViews
from trtforge_plugins.clean.resolve_if import ResolveIf
from trtforge_plugins.clean.tidy_initializers import TidyInitializers
from trtforge_plugins.clean.unroll_loop import UnrollLoop
from trtforge_plugins.clean.upgrade_opset import UpgradeOpset

__all__ = [
    "CutPadding",
    "DedupeWeights",
    "DropDeadCode",
    "DropIdentity",
    "FoldBatchnorm",
    "FoldConstants",
    "InferShapes",
    "MergeDuplicates",
    "MergePadding",
    "MergeViews",
    "ResolveIf",
    "TidyInitializers",
    "UnrollLoop",
    "UpgradeOpset",
]
