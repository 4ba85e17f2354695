"""make-convertible: what TensorRT's parser refuses becomes what it takes, with equal outputs."""

from trtforge_plugins.convert.channels_last_rows import ChannelsLastRows
from trtforge_plugins.convert.flatten_products import FlattenProducts
from trtforge_plugins.convert.freeze_inputs import FreezeInputs
from trtforge_plugins.convert.inline_functions import InlineFunctions
from trtforge_plugins.convert.join_heads import JoinHeads
from trtforge_plugins.convert.make_convertible import MakeConvertible
from trtforge_plugins.convert.resolve_sequences import ResolveSequences
from trtforge_plugins.convert.single_columns import SingleColumns
from trtforge_plugins.convert.widen_types import WidenTypes

__all__ = [
    "ChannelsLastRows",
    "FlattenProducts",
    "FreezeInputs",
    "InlineFunctions",
    "JoinHeads",
    "MakeConvertible",
    "ResolveSequences",
    "SingleColumns",
    "WidenTypes",
]
