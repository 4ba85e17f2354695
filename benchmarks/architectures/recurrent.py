"""Networks with a state that goes from step to step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.architecture import BATCH, Architecture, Range, Sizes


class LstmTagger(nn.Module):
    """Bidirectional LSTM over characters of words (Huang et al. 2015): a tag for each word."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, 17)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0])


class GruKeywords(nn.Module):
    """Keyword spotting by a convolution and a GRU (Arik et al. 2017), its state kept outside."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.conv = nn.Conv1d(40, width, 5, padding=2)
        self.gru, self.head = (
            nn.GRU(width, width, num_layers=2, batch_first=True),
            nn.Linear(width, 12),
        )

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.gru(F.relu(self.conv(mel)).transpose(1, 2), state)
        return self.head(y[:, -1]), state


class DeepSpeech(nn.Module):
    """Deep Speech 2 (Amodei et al. 2015): two 2-D convolutions, bidirectional GRUs, CTC scores."""

    def __init__(self, layers: int = 3, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, (41, 11), (2, 2), (20, 5)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
            nn.Conv2d(8, 8, (21, 11), (2, 1), (10, 5)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
        )  # fmt: skip
        self.grus = nn.ModuleList(
            nn.GRU(8 * 20 if i == 0 else width, width, bidirectional=True) for i in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        self.head = nn.Linear(width, 29)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = self.stem(spectrum[:, None]).flatten(1, 2).permute(2, 0, 1)
        for gru, norm in zip(self.grus, self.norms, strict=True):
            both = gru(x)[0]
            x = both.view(both.shape[0], both.shape[1], 2, -1).sum(2)
            x = norm(x.permute(1, 2, 0)).permute(2, 0, 1)
        return self.head(x).transpose(0, 1).log_softmax(-1)


class Tacotron(nn.Module):
    """Tacotron 2 (Shen et al. 2017): encoder of characters, attention with locations, LSTM cells.

    The decoder's loop is unrolled for a fixed number of frames, as torch.export traces it.
    """

    def __init__(self, frames: int = 6, width: int = 48, mels: int = 20) -> None:
        super().__init__()
        self.frames, self.mels, self.width = frames, mels, width
        self.words = nn.Embedding(100, width)
        self.convs = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU()
                )
                for _ in range(3)
            )
        )
        self.encoder = nn.LSTM(width, width // 2, bidirectional=True, batch_first=True)
        self.prenet = nn.Sequential(nn.Linear(mels, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.attend, self.speak = nn.LSTMCell(32 + width, width), nn.LSTMCell(2 * width, width)
        self.query, self.memory = nn.Linear(width, 24, bias=False), nn.Linear(width, 24, bias=False)
        self.where = nn.Conv1d(2, 8, 7, padding=3, bias=False)
        self.place, self.score = nn.Linear(8, 24, bias=False), nn.Linear(24, 1, bias=False)
        self.frame, self.stop = nn.Linear(2 * width, mels), nn.Linear(2 * width, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.convs(self.words(ids).transpose(1, 2)).transpose(1, 2)
        memory = self.encoder(x)[0]
        keys, batch = self.memory(memory), ids.shape[0]
        zeros = memory.new_zeros(batch, self.width)
        one, two = (zeros, zeros), (zeros, zeros)
        weights = total = memory.new_zeros(batch, ids.shape[1])
        context, frame = zeros, memory.new_zeros(batch, self.mels)
        frames, stops, alignments = [], [], []
        for _ in range(self.frames):
            one = self.attend(torch.cat([self.prenet(frame), context], 1), one)
            place = self.place(self.where(torch.stack([weights, total], 1)).transpose(1, 2))
            energy = self.score(torch.tanh(self.query(one[0])[:, None] + place + keys)).squeeze(2)
            weights = energy.softmax(1)
            total = total + weights
            context = torch.bmm(weights[:, None], memory).squeeze(1)
            two = self.speak(torch.cat([one[0], context], 1), two)
            both = torch.cat([two[0], context], 1)
            frame = self.frame(both)
            frames.append(frame)
            stops.append(self.stop(both))
            alignments.append(weights)
        return torch.stack(frames, 1), torch.cat(stops, 1), torch.stack(alignments, 1)


_IDS = {0: "batch", 1: "length"}
_RANGES = {"batch": BATCH, "length": Range(3, 12, 32)}


def _ids(sizes: Sizes) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 100, (sizes["batch"], sizes["length"]))}


def _keywords(sizes: Sizes) -> dict[str, Tensor]:
    mel = torch.randn(sizes["batch"], 40, sizes["frames"])
    return {"mel": mel, "state": torch.randn(2, sizes["batch"], 48)}


RECURRENT = (
    Architecture(
        "lstm-tagger", "recurrent", LstmTagger, _ids, {"ids": _IDS}, ("tags",), _RANGES
    ),
    Architecture(
        "gru-keywords", "recurrent", GruKeywords, _keywords,
        {"mel": {0: "batch", 2: "frames"}, "state": {1: "batch"}}, ("scores", "new_state"),
        {"batch": BATCH, "frames": Range(4, 20, 50)},
    ),
    Architecture(
        "deep-speech-2", "recurrent", DeepSpeech,
        lambda sizes: {"spectrum": torch.randn(sizes["batch"], 80, sizes["frames"])},
        {"spectrum": {0: "batch", 2: "frames"}}, ("scores",),
        {"batch": BATCH, "frames": Range(16, 48, 96)},
        {"dynamo": "aten.gru of two directions: RuntimeError: The size of tensor a (48) must match "
                   "the size of tensor b (144) at non-singleton dimension 2"},
    ),
    Architecture(
        "tacotron-2", "recurrent", Tacotron, _ids, {"ids": _IDS}, ("mel", "stop", "alignment"),
        _RANGES,
    ),
)  # fmt: skip
