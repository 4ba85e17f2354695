"""make-convertible: what TensorRT's parser refuses becomes what it takes, with equal outputs."""

from trtforge_plugins.convert.make_convertible import MakeConvertible

__all__ = ["MakeConvertible"]
