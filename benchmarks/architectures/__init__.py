"""Published networks, written in torch with random weights, for ``real_graphs.py``.

Each file holds a family and lists what it has in a tuple; they are joined here.
"""

from __future__ import annotations

from architectures.architecture import Architecture
from architectures.classification import CLASSIFICATION

ARCHITECTURES: tuple[Architecture, ...] = (*CLASSIFICATION,)
"""All of them; each name is there once."""
