"""trtforge: a trained model goes in, a recipe says what to do, proven TensorRT engines come out.

* ``check("model.onnx")`` says what TensorRT refuses, and what mends it;
* ``run("fp16", "model.onnx")`` runs a recipe, a file of yours or one that ships;
* ``make_convertible(model)`` rewrites what TensorRT refuses, in a program of yours;
* ``load("bundle.zip")`` gives the engine that fits this machine, ready to run.

The other names are for plugins: steps (``Pass``, ``Calibrator``, ``Backend``, …), what they hand
on (``Batches``, ``Ranges``, ``Engine``, …), custom ops; and errors, each with its exit code.
Importing this package is cheap: the public names, listed in ``__init__.pyi``, are loaded when they
are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
