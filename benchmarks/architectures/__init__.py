"""Published networks, written in torch with random weights, for ``real_graphs.py``.

Each file holds a family and lists what it has in a tuple; they are joined here.
"""

from __future__ import annotations

from architectures.architecture import Architecture
from architectures.classification import CLASSIFICATION
from architectures.detection import DETECTION
from architectures.encoder_decoders import ENCODER_DECODERS
from architectures.generative import GENERATIVE
from architectures.mobile import MOBILE
from architectures.recurrent import RECURRENT
from architectures.restoration import RESTORATION
from architectures.sampling import SAMPLING
from architectures.segmentation import SEGMENTATION
from architectures.space import SPACE
from architectures.speech import SPEECH
from architectures.state_space import STATE_SPACE
from architectures.tables import TABLES
from architectures.text_decoders import TEXT_DECODERS
from architectures.text_encoders import TEXT_ENCODERS
from architectures.vision_transformers import VISION_TRANSFORMERS

ARCHITECTURES: tuple[Architecture, ...] = (
    *CLASSIFICATION,
    *VISION_TRANSFORMERS,
    *SEGMENTATION,
    *SAMPLING,
    *RESTORATION,
    *MOBILE,
    *DETECTION,
    *ENCODER_DECODERS,
    *GENERATIVE,
    *RECURRENT,
    *SPACE,
    *SPEECH,
    *STATE_SPACE,
    *TABLES,
    *TEXT_DECODERS,
    *TEXT_ENCODERS,
)
"""All of them; each name is there once."""
