"""The network, built from an `Architecture`; its checkpoints saved and loaded."""

from pathlib import Path

import torch
from torch import nn

from . import files
from .architecture import CLASSES, Architecture


class CRNN(nn.Module):
    """Convolution, GRU, attention over the GRU's outputs, classifier (arXiv 1803.10916).

    Shape: (batch, mels, frames) log-mels -> (batch, 2) logits of other words and the keyword.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = a = architecture
        self.convolution = nn.Conv2d(1, a.channels, a.kernel, a.stride)
        dropout = a.dropout if a.layers > 1 else 0.0
        self.gru = nn.GRU(a.gru_inputs, a.hidden, a.layers, batch_first=True, dropout=dropout)
        hidden = nn.Linear(a.hidden, a.hidden)
        self.attention = nn.Sequential(hidden, nn.Tanh(), nn.Linear(a.hidden, 1))
        self.classifier = nn.Linear(a.hidden, CLASSES)

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        return self.classify(self.gru(self.convolve(log_mels))[0])

    def convolve(self, log_mels: torch.Tensor) -> torch.Tensor:
        """(batch, mels, frames) -> (batch, steps, channels * conv_mels): what the GRU reads."""
        maps = self.convolution(log_mels[:, None])  # (batch, channels, conv_mels, steps)
        return maps.flatten(1, 2).transpose(1, 2)

    def classify(self, outputs: torch.Tensor) -> torch.Tensor:
        """(batch, steps, hidden) outputs of the GRU, weighted over steps -> (batch, 2) logits."""
        weights = torch.softmax(self.attention(outputs), dim=1)  # (batch, steps, 1)
        return self.classifier((weights * outputs).sum(1))

    def windows(self, log_mels: torch.Tensor, every: int = 1) -> torch.Tensor:
        """A long recording window by window, each from rest and one second long: (batch, mels,
        frames) log-mels -> (batch, windows, 2) logits, a window every `every` steps."""
        a = self.architecture
        inputs = self.convolve(log_mels).unfold(1, a.steps, every).transpose(2, 3)
        outputs, _ = self.gru(inputs.flatten(0, 1))  # (batch * windows, steps, hidden)
        return self.classify(outputs).unflatten(0, inputs.shape[:2])

    def carried(self, log_mels: torch.Tensor) -> torch.Tensor:
        """A long recording with one GRU that runs on, the study's way: (batch, mels, frames)
        log-mels -> (batch, steps, 2) logits. Attention sees the last second, or what there is."""
        outputs, _ = self.gru(self.convolve(log_mels))
        size, ends = self.architecture.steps, range(1, outputs.shape[1] + 1)
        return torch.stack([self.classify(outputs[:, max(0, e - size) : e]) for e in ends], dim=1)


def build(architecture: Architecture, seed: int) -> CRNN:
    """A network with initial weights drawn from this seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CRNN(architecture)


def save(path: Path, model: CRNN, **metadata: str) -> None:
    """Weights, with the description of network and front end in the metadata."""
    weights = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    metadata["architecture"] = model.architecture.to_json()
    files.write_checkpoint(path, weights, metadata)


def load(path: Path) -> CRNN:
    """The network of a float checkpoint, in evaluation mode, or `FileError`."""
    arrays, metadata = files.read_checkpoint(path)
    if "int8" in metadata:
        raise files.FileError(f"{path} holds an int8 network; quantization.load reads it")
    model = CRNN(Architecture.from_json(metadata["architecture"]))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return model.eval()
