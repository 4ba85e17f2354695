"""Make the packaged example from nothing: train the digit classifier, write model and data.

    python scripts/make_demo.py [--out trtforge/demo]

Needs torch, onnx, onnxruntime and scikit-learn (the extras ``torch`` and ``test``). Takes about a
minute on two CPU cores. The seed is fixed; other versions of torch may give other weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TRAINING = 1347  # images; the other 450 are for testing
CALIBRATION = 256
EPOCHS = 30
BATCH = 64


class ConvNorm(nn.Sequential):
    """A 3x3 convolution and BatchNorm.

    The convolution has a bias, although BatchNorm makes it superfluous: without one, torch's plain
    export computes a bias of zeros at run time, which is no typical model.
    """

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer))


class Digits(nn.Module):
    """Stem, a residual block at 8x8, a step down to 4x4, another residual block, two linear layers.

    Channels are multiples of 16, which 8-bit tensor cores need.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 32)
        self.first = nn.ModuleList([ConvNorm(32, 32), ConvNorm(32, 32)])
        self.down = ConvNorm(32, 64, 2)
        self.second = nn.ModuleList([ConvNorm(64, 64), ConvNorm(64, 64)])
        self.hidden = nn.Linear(64, 64)
        self.dropout = nn.Dropout(0.2)
        self.classes = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map images [N,1,8,8] to logits [N,10]."""
        x = functional.relu(self.stem(image))
        x = functional.relu(x + self.first[1](functional.relu(self.first[0](x))))
        x = functional.relu(self.down(x))
        x = functional.relu(x + self.second[1](functional.relu(self.second[0](x))))
        x = functional.relu(self.hidden(x.mean((2, 3))))
        return self.classes(self.dropout(x))


def shifted(images: Tensor) -> Tensor:
    """Shift the batch by up to one pixel in each direction, the only augmentation."""
    rows, columns = torch.randint(-1, 2, (2,)).tolist()
    return functional.pad(images, (1, 1, 1, 1))[
        :, :, 1 + rows : 9 + rows, 1 + columns : 9 + columns
    ]


def train(images: Tensor, labels: Tensor) -> Digits:
    """Return the trained network in evaluation mode."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(mode=True)
    net = Digits()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for picked in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(shifted(images[picked])), labels[picked])
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def export(net: Digits, path: Path) -> None:
    """Write the network as torch exports it: BatchNorm and Dropout are left for trtforge."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        optimize=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        opset_version=21,
        verbose=False,
    )
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # stack traces with the paths of this machine
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that ONNX Runtime classifies right."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": images})[0]
    return float((logits.argmax(1) == labels).mean())


def main() -> None:
    """Train, export, write the data, print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("trtforge/demo"))
    out: Path = parser.parse_args().out
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int64)
    net = train(torch.from_numpy(images[:TRAINING]), torch.from_numpy(labels[:TRAINING]))
    out.mkdir(parents=True, exist_ok=True)
    export(net, out / "digits.onnx")
    np.savez_compressed(out / "calibration.npz", image=images[:CALIBRATION])
    np.savez_compressed(out / "test.npz", image=images[TRAINING:], labels=labels[TRAINING:])
    for name, part in (("training", slice(TRAINING)), ("test", slice(TRAINING, None))):
        print(f"{name} accuracy: {accuracy(out / 'digits.onnx', images[part], labels[part]):.4f}")


if __name__ == "__main__":
    main()
