"""The packaged example: a digit classifier, real images, and a recipe (``trtforge demo``).

Made by ``scripts/make_demo.py`` from scikit-learn's digits data set (UCI, 8x8 grey images).
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "digits.onnx"
"""Convolutional network; input ``image`` float32 [N,1,8,8] in 0..1, output ``logits`` [N,10]."""
CALIBRATION = FOLDER / "calibration.npz"
"""256 images of the training set."""
TEST = FOLDER / "test.npz"
"""450 images that the network was not trained on, with their ``labels``."""
RECIPE = FOLDER / "int8.yaml"
"""Cleans, quantizes to INT8 with the rest in float16, builds, proves, compares."""
