"""The colours of types in reports can be told apart, also by people who see fewer colours."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import trtforge

SEEN = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
                   (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
                     (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
                   (0.004733, 0.691367, 0.303900)),
}  # fmt: skip
"""What people see of linear red, green and blue (Machado, Oliveira, Fernandes 2009, severity 1)."""


def linear(colour: str) -> np.ndarray:
    """Linear sRGB of ``#rrggbb``."""
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear sRGB."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratios = to_xyz @ light.clip(0, 1) / (0.95047, 1, 1.08883)
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", SEEN)
@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_colours_of_types_differ_however_colours_are_seen(side, vision):
    css = (Path(trtforge.__file__).parent / "templates" / "report.css").read_text()
    pairs = dict(re.findall(r"--(type-\w+|card): light-dark\((#\w{6}, #\w{6})\)", css))
    colours = {name: pair.split(", ")[side] for name, pair in pairs.items()}
    seen = {name: np.array(SEEN[vision]) @ linear(colour) for name, colour in colours.items()}
    types = [name for name in seen if name != "card"]
    assert len(types) == 7
    for one, other in itertools.combinations(types, 2):
        apart = np.linalg.norm(lab(seen[one]) - lab(seen[other]))
        assert apart > 14, (one, other, apart)  # about 2 is just seen side by side
    bright = {name: linear(colour) @ (0.2126, 0.7152, 0.0722) for name, colour in colours.items()}
    for name in types:  # WCAG 2.2, 1.4.11: 3 to 1 for what is no text
        high, low = max(bright[name], bright["card"]), min(bright[name], bright["card"])
        assert (high + 0.05) / (low + 0.05) > 3, name
