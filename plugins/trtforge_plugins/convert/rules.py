"""The rules that make-convertible applies, in one list. The first that answers for a node wins.

The order counts only between rules that name the same operator (AffineGrid, MatMul,
BatchNormalization, GRU, LSTM, Slice, ReduceMax, ReduceMin): the second is asked where the first
does not answer, and again about the nodes that a rewrite made. The groups are for readers: from
whole functions to number types.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from trtforge_plugins.convert.arithmetic import CumProd, Det, FloorMod, HalfCelu, VectorMatMul
from trtforge_plugins.convert.attention import WrittenAttention
from trtforge_plugins.convert.axes import ReduceAxes, ReduceBool, SqueezeAxes
from trtforge_plugins.convert.beyond import BeyondTensorRt
from trtforge_plugins.convert.bits import BitShift, BitwiseLogic, BitwiseNot
from trtforge_plugins.convert.casting import BitCast, CastLikeByType, QuantizedCast
from trtforge_plugins.convert.counting import Compress, OneHot, Range, Unique
from trtforge_plugins.convert.dropout import TrainingDropout
from trtforge_plugins.convert.feature_ops import (
    ArrayFeatureExtractor,
    Binarizer,
    LinearRegressor,
    Scaler,
)
from trtforge_plugins.convert.identity_matrix import EyeLike
from trtforge_plugins.convert.images import AffineGrid, Col2Im
from trtforge_plugins.convert.integer_products import IntegerProduct
from trtforge_plugins.convert.mel import MelWeights
from trtforge_plugins.convert.ngrams import TfIdfVectorizer
from trtforge_plugins.convert.normalization import (
    BatchNormPerElement,
    BatchNormTraining,
    LayerNormStatistics,
    NormalizeWithoutSpace,
)
from trtforge_plugins.convert.own_body import OwnBody
from trtforge_plugins.convert.pooling import MaxPool, MaxUnpool, SumPool
from trtforge_plugins.convert.quantization import Dequantize, DynamicQuantize, Quantize
from trtforge_plugins.convert.recurrent import BfloatGru, CoupledGates, RecurrentLayout
from trtforge_plugins.convert.resize import Resize
from trtforge_plugins.convert.rule import Rule
from trtforge_plugins.convert.sampling import DeformConv, RoiAlign
from trtforge_plugins.convert.scatter import ScatterReduction
from trtforge_plugins.convert.signal import Dft, Stft
from trtforge_plugins.convert.slice_bounds import SliceBoundsInt64
from trtforge_plugins.convert.slices import NameSliceAxes
from trtforge_plugins.convert.stacked_key import StackedKey
from trtforge_plugins.convert.suppression import NonMaxSuppression
from trtforge_plugins.convert.tensor_scatter import ScatterIntoCache


def all_rules() -> tuple[Rule, ...]:
    """Return every rule."""
    return (
        # whole functions: before the rules for what they consist of
        *(AffineGrid(), OwnBody(), WrittenAttention(), StackedKey()),
        # normalization and recurrent networks
        *(LayerNormStatistics(), BatchNormPerElement(), BatchNormTraining()),
        *(NormalizeWithoutSpace(), RecurrentLayout(), CoupledGates(), BfloatGru()),
        *(TrainingDropout(),),
        # axes, slices, positions in tensors
        *(SliceBoundsInt64(), NameSliceAxes(), ReduceBool(), ReduceAxes(), SqueezeAxes()),
        *(ScatterReduction(), ScatterIntoCache()),
        # images
        *(MaxPool(), SumPool(), MaxUnpool(), Resize(), Col2Im(), DeformConv(), RoiAlign()),
        # arithmetic, bits, signals
        *(FloorMod(), HalfCelu(), VectorMatMul(), CumProd(), Det()),
        *(BitShift(), BitwiseLogic(), BitwiseNot()),
        *(Dft(), Stft(), MelWeights()),
        # sizes that are run-time values
        *(Range(), EyeLike(), OneHot(), Compress(), Unique(), NonMaxSuppression()),
        # features of classic models
        *(Binarizer(), ArrayFeatureExtractor(), Scaler(), LinearRegressor(), TfIdfVectorizer()),
        # number types and quantization
        *(CastLikeByType(), QuantizedCast(), BitCast()),
        *(Quantize(), Dequantize(), DynamicQuantize(), IntegerProduct()),
        # what none of them can help
        *(BeyondTensorRt(),),
    )


@cache
def rules_by_op() -> Mapping[tuple[str, str], tuple[Rule, ...]]:
    """Return the rules by domain and operator."""
    table: dict[tuple[str, str], list[Rule]] = {}
    for rule in all_rules():
        for op in rule.ops:
            domain, _, op_type = op.rpartition("::")
            table.setdefault((domain, op_type), []).append(rule)
    return {key: tuple(rules) for key, rules in table.items()}
