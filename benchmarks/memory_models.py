"""Networks at the sizes people deploy, for ``memory.py``; weights are random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from architectures.classification import DenseNet, ResNet
from architectures.detection import Detr, Yolo
from architectures.generative import DiffusionUnet
from architectures.mobile import ConvNext, Mobile, _efficient_excite
from architectures.restoration import Esrgan
from architectures.segmentation import SegFormer, UNet
from architectures.speech import Conformer, HifiGan, Wav2Vec2
from architectures.text_decoders import Gpt2
from architectures.text_encoders import Bert
from architectures.vision_transformers import MlpMixer, Swin, Vit
from torch import Tensor, nn

MOBILENET_V2 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3), (6, 320, 1, 1, 3),
)  # fmt: skip
EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip


@dataclass(frozen=True)
class Deployed:
    """A module at its usual size, and inputs for a batch size."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]
    second: tuple[str, ...] = ()
    """Inputs whose second axis is the batch; of all others it is the first."""

    def batch_axis(self, name: str) -> int:
        """Return which axis of an input is the batch."""
        return int(name in self.second)


def _image(side: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {"image": torch.randn(batch, 3, side, side)}


def _tokens(batch: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 1000, (batch, 128))
    return {"ids": ids, "mask": torch.ones_like(ids), "segments": torch.zeros_like(ids)}


def _cached(batch: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 1000, (batch, 32))
    return {"ids": ids, "past": torch.randn(12, batch, 2, 12, 96, 64)}


def _noisy(batch: int) -> dict[str, Tensor]:
    return {
        "latent": torch.randn(batch, 4, 32, 32),
        "step": torch.randint(0, 1000, (batch,)),
        "text": torch.randn(batch, 77, 256),
    }


DEPLOYED = {
    "resnet-50": Deployed(
        lambda: ResNet((3, 4, 6, 3), (256, 512, 1024, 2048), groups=1, classes=1000), _image(224)
    ),
    "mobilenet-v2": Deployed(
        lambda: Mobile(MOBILENET_V2, nn.ReLU6, wide=1280, classes=1000), _image(224)
    ),
    "efficientnet-b0": Deployed(
        lambda: Mobile(EFFICIENTNET_B0, nn.SiLU, _efficient_excite, 1280, 1000), _image(224)
    ),
    "u-net": Deployed(lambda: UNet(transposed=True, widths=(32, 64, 128, 256, 512)), _image(256)),
    "yolo-v8": Deployed(lambda: Yolo((64, 128, 256, 512), classes=80, bins=16), _image(640)),
    "vit": Deployed(lambda: Vit(width=768, classes=1000), _image(64)),
    "bert-base": Deployed(lambda: Bert(width=768, heads=12), _tokens),
    "gpt-2": Deployed(lambda: Gpt2(width=768, heads=12), _cached, ("past",)),
    "conformer": Deployed(lambda: Conformer(width=256), lambda b: {"mel": torch.randn(b, 400, 80)}),
    "diffusion-u-net": Deployed(lambda: DiffusionUnet(widths=(128, 256, 384), text=256), _noisy),
}
"""The ten whose layer dumps the rules of the prediction were read off."""

HELD_OUT = {
    "densenet-121": Deployed(lambda: DenseNet(growth=32, classes=1000), _image(224)),
    "swin-t": Deployed(lambda: Swin(width=96, side=64, classes=1000), _image(256)),
    "mlp-mixer": Deployed(lambda: MlpMixer(width=512, classes=1000), _image(64)),
    "segformer-b0": Deployed(lambda: SegFormer((32, 64, 160, 256), classes=150), _image(512)),
    "wav2vec-2": Deployed(
        lambda: Wav2Vec2(12, 512, 8), lambda batch: {"wave": torch.randn(batch, 16000)}
    ),
    "esrgan": Deployed(lambda: Esrgan(width=64), _image(64)),
}
"""Chosen before any engine of them was looked at. One rule was read off Swin-T afterwards."""

HELD_OUT_LATER = {
    "convnext-t": Deployed(lambda: ConvNext(widths=(96, 192, 384, 768), classes=1000), _image(224)),
    "hifi-gan": Deployed(
        lambda: HifiGan(width=512), lambda batch: {"mel": torch.randn(batch, 80, 64)}
    ),
    "detr": Deployed(lambda: Detr(width=256, queries=100, classes=91), _image(512)),
}
"""Chosen after that rule. DETR gave one more: convolutions copy what they read from the caller."""
