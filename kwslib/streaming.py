"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Each step scores the last second exactly as offline: one window is complete, another begins with a
GRU that has heard nothing. Results do not depend on how the stream is cut, to the last bit. A
sample that is not finite is silence, one a little beyond full scale is cut to it, and both are
forgotten after a second. An int8 checkpoint runs with its weights as floats (int8 times scale).
"""

import json
from pathlib import Path

import numpy as np

from . import files
from .architecture import Architecture
from .events import Detector
from .layers import FULL_SCALE, LogMels, Windows


class Stream:
    """A keyword spotter on one stream. Do not copy one: arrays are views of each other. A step
    makes as many frames as the convolution moves on, and ends where a kernel ends. So the first
    steps also make frames from before the stream. No window that is reported holds them."""

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray]):
        """weights: float32 arrays, see `files.float_weights`. `ValueError`: cannot be streamed."""
        self.architecture, front_end = architecture, architecture.front_end
        kernel, stride = architecture.kernel[1], architecture.stride[1]  # frames
        hop, window = front_end.hop_samples, front_end.window_samples
        if hop > window or stride > kernel or kernel % stride == 1 % stride:
            needs = "a stream needs hop <= window, 1 < stride <= kernel, kernel % stride not 1"
            raise ValueError(f"hop {hop}, kernel {kernel}, stride {stride}: {needs}")
        steps, self._half = -(-kernel // stride), window // 2  # steps that fill a kernel
        self._first = steps + architecture.steps - 2  # the step that completes the first window
        self._middle = (kernel - 1 - (steps - 1) * stride) * hop  # of step 0's last frame, a sample
        # Samples of step 0 from before the stream, samples by which a step moves on.
        self._before, self._taken = (steps * stride - kernel) * hop + self._half, stride * hop
        self._samples = np.zeros(self._taken - hop + window, np.float32)  # of the next step
        self._windows = Windows(architecture, weights)
        self._log_mels = LogMels(front_end, self._samples, self._windows.frames[-stride:])
        self.reset()

    @classmethod
    def load(cls, path: Path) -> "Stream":
        """The stream of a checkpoint, float or int8, or `FileError`."""
        arrays, stated = files.read_checkpoint(path)
        try:
            return cls(Architecture.from_json(stated["architecture"]), files.float_weights(arrays))
        except ValueError as error:
            raise files.FileError(f"{path}: {error}") from None

    def reset(self) -> None:
        """Forgets everything; the next sample is at 0 s."""
        self._heard, self._step, self._is_over = 0, 0, False  # samples, steps
        self._waiting, self._samples[:] = self._before, 0  # samples that wait for the next step
        self._windows.reset()

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start."""
        return self._heard / self.architecture.front_end.sample_rate_hz

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1, any number of them. Returns (steps, 2):
        seconds from the stream's start to the step's last frame, and probability of the keyword in
        the second that ends there."""
        if self._is_over:
            raise ValueError("the stream was flushed; reset it")
        scaled = _scale(samples)
        self._heard += len(scaled)
        return self._hear(scaled)

    def flush(self) -> np.ndarray:
        """Ends the stream and returns its last rows, with the last half frame reflected, as offline
        framing does. Before the next sample, reset."""
        rows, self._is_over = self.feed(self._samples[:0]), True
        if self._heard > self._half:
            tail = self._samples[: self._waiting][-2 : -self._half - 2 : -1]
            rows = np.concatenate([rows, self._hear(tail.copy())])
        return rows

    def score(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """All rows of a recording from a fresh start, `chunk` samples at a time."""
        self.reset()
        pieces = [self.feed(samples[at : at + chunk]) for at in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        """Samples within FULL_SCALE -> rows, of the same bits however the samples came."""
        rows, zero, half = [], self._before, self._half
        while True:
            piece = samples[: len(self._samples) - self._waiting]
            samples = samples[len(piece) :]
            self._samples[self._waiting : self._waiting + len(piece)] = piece
            self._waiting += len(piece)
            if self._waiting < len(self._samples):
                return np.array(rows).reshape(-1, 2)
            if self._step == 0:  # offline framing reflects the start about sample 0
                self._samples[zero - half : zero] = self._samples[zero + half : zero : -1]
            self._log_mels.compute()
            probability = self._windows.advance(self._step)
            if self._step >= self._first:
                middle = self._middle + self._step * self._taken
                rows.append((middle / self.architecture.front_end.sample_rate_hz, probability))
            self._samples[: -self._taken] = self._samples[self._taken :]
            self._step, self._waiting = self._step + 1, self._waiting - self._taken


def ready(path: Path, threshold=None, smoothing=None) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. `threshold` and `smoothing` override the stored
    values. Without a stored detector, the defaults of `Detector` hold."""
    values = json.loads(files.read_checkpoint(path)[1].get("detector", "{}"))
    asked = {"threshold": threshold, "smoothing": smoothing}
    values |= {name: value for name, value in asked.items() if value is not None}
    return Stream.load(path), Detector(**values)


def _scale(samples: np.ndarray) -> np.ndarray:
    """(samples,) int16, or float of full scale 1 -> within FULL_SCALE, silent where not finite."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.str[1:] not in ("i2", "f2", "f4", "f8"):
        raise ValueError(f"samples are {samples.dtype} {samples.shape}, not (n,) int16 or float")
    if samples.dtype.kind == "i":
        return samples
    if len(samples) and not (samples.max() <= 1 and samples.min() >= -1):  # so NaN comes here too
        samples = np.where(np.isfinite(samples), samples, 0)
        if (loudest := np.abs(samples).max()) > 1.5:  # resampling overshoots by less
            raise ValueError(f"a float sample is {loudest:g}; full scale is 1, or pass int16")
        samples = samples.clip(-1, 1)
    return samples.astype(np.float32) * np.float32(FULL_SCALE)
