"""The network, built from an `Architecture`; its checkpoints saved and loaded."""

from pathlib import Path

import torch
from torch import nn

from . import checkpoints
from .architecture import CLASSES, Architecture


class CRNN(nn.Module):
    """Convolution, GRU, attention over the GRU's outputs, classifier (arXiv 1803.10916).

    Shape: (batch, mels, frames) log-mels -> (batch, 2) logits of other words and the keyword.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        a = architecture
        self.architecture = a
        self.convolution = nn.Conv2d(1, a.channels, a.kernel, a.stride)
        dropout = a.dropout if a.layers > 1 else 0.0
        self.gru = nn.GRU(a.gru_inputs, a.hidden, a.layers, batch_first=True, dropout=dropout)
        self.attention = nn.Sequential(nn.Linear(a.hidden, a.hidden), nn.Tanh(), nn.Linear(a.hidden, 1))
        self.classifier = nn.Linear(a.hidden, CLASSES)

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.gru(self.convolve(log_mels))
        return self.classify(outputs)

    def convolve(self, log_mels: torch.Tensor) -> torch.Tensor:
        """(batch, mels, frames) -> (batch, steps, channels * conv_mels): what the GRU reads."""
        maps = self.convolution(log_mels[:, None])  # (batch, channels, conv_mels, steps)
        return maps.flatten(1, 2).transpose(1, 2)

    def classify(self, outputs: torch.Tensor) -> torch.Tensor:
        """(batch, steps, hidden) outputs of the GRU -> (batch, 2) logits: softmax over the steps of
        their energies, weighted sum, classifier."""
        weights = torch.softmax(self.attention(outputs), dim=1)  # (batch, steps, 1)
        return self.classifier((weights * outputs).sum(1))

    def windows(self, log_mels: torch.Tensor, every: int = 1) -> torch.Tensor:
        """Long recordings second by second, each from rest: (batch, mels, frames) log-mels ->
        (batch, windows, 2) logits, a window every `every` steps, the first one second long."""
        a = self.architecture
        inputs = self.convolve(log_mels).unfold(1, a.steps, every).transpose(2, 3)
        outputs, _ = self.gru(inputs.flatten(0, 1))
        return self.classify(outputs).unflatten(0, inputs.shape[:2])

    def carried(
        self, log_mels: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Long recordings with one GRU running on: (batch, mels, frames) log-mels and the GRU's state
        before them (layers, batch, hidden) -> (batch, windows, 2) logits, one a step from the end of
        the first second on, attention over the outputs of a second; and the state after them."""
        outputs, state = self.gru(self.convolve(log_mels), state)
        energies = self.attention(outputs)[..., 0].unfold(1, self.architecture.steps, 1)
        weights = torch.softmax(energies, dim=2)  # (batch, windows, steps)
        seconds = outputs.unfold(1, self.architecture.steps, 1)  # (batch, windows, hidden, steps)
        context = torch.einsum("bwhs,bws->bwh", seconds, weights)
        return self.classifier(context), state


def build(architecture: Architecture, seed: int = 0) -> CRNN:
    """A network with initial weights drawn from this seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CRNN(architecture)


def save(path: Path, model: CRNN) -> None:
    """Weights, with the architecture and front end in the metadata."""
    weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    checkpoints.write(path, weights, {"architecture": model.architecture.to_json()})


def load(path: Path) -> CRNN:
    """The float network of a checkpoint, in evaluation mode, or `CheckpointError`."""
    arrays, metadata = checkpoints.read(path)
    architecture = checkpoints.architecture_of(metadata, path, arrays)
    model = CRNN(architecture)
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise checkpoints.CheckpointError(
            f"{path} does not hold the network it describes: {reason}"
        ) from None
    return model.eval()
