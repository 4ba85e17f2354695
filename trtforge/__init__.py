"""trtforge: a trained model goes in, a recipe says what to do, proven TensorRT engines come out.

Importing this package is cheap: the public names, listed in ``__init__.pyi``, are loaded when they
are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
