"""Steps that decide in which type each part of the model computes: data, ranges, Q/DQ, casts."""

from trtforge_plugins.precision.calibrate_average import CalibrateAverage
from trtforge_plugins.precision.calibrate_entropy import CalibrateEntropy
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.calibrate_mse import CalibrateMse
from trtforge_plugins.precision.calibrate_percentile import CalibratePercentile
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.collect_statistics import CollectStatistics
from trtforge_plugins.precision.correct_bias import CorrectBias
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.join_products import JoinProducts
from trtforge_plugins.precision.load_data import LoadData
from trtforge_plugins.precision.quantize_weights import QuantizeWeights
from trtforge_plugins.precision.read_ranges import ReadRanges
from trtforge_plugins.precision.round_weights import RoundWeights
from trtforge_plugins.precision.search_precision import SearchPrecision
from trtforge_plugins.precision.smooth_quant import SmoothQuant
from trtforge_plugins.precision.write_ranges import WriteRanges

__all__ = [
    "CalibrateAverage",
    "CalibrateEntropy",
    "CalibrateMax",
    "CalibrateMse",
    "CalibratePercentile",
    "Cast",
    "CollectStatistics",
    "CorrectBias",
    "InsertQDQ",
    "JoinProducts",
    "LoadData",
    "QuantizeWeights",
    "ReadRanges",
    "RoundWeights",
    "SearchPrecision",
    "SmoothQuant",
    "WriteRanges",
]
