"""The one description of a network and of its front end; shapes, parameters and MACs follow from it.

The network is the CRNN with attention of Shan et al. 2018 (arXiv 1803.10916) in the sizes of the
reference study: a convolution over (mel, frame) without activation, a GRU, additive attention over
its outputs, a classifier of two classes. Counts are for one clip of one second.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np

CLASSES = 2  # other words, the keyword


@dataclass(frozen=True)
class FrontEnd:
    """How audio becomes a log-mel spectrogram: centred Hann windows, HTK mels of the power."""

    sample_rate_hz: int = 16000
    clip_samples: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    mels: int = 40
    floor: float = 1e-9
    ceiling: float = 1e9

    @property
    def frames(self) -> int:
        """Frames of one clip: one every hop, the first centred on sample 0."""
        return self.clip_samples // self.hop_samples + 1

    @property
    def bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.window_samples // 2 + 1

    def window(self) -> np.ndarray:
        """(window_samples,) float32: a periodic Hann window."""
        n = np.arange(self.window_samples)
        return (0.5 - 0.5 * np.cos(2 * np.pi * n / self.window_samples)).astype(np.float32)

    def filters(self) -> np.ndarray:
        """(bins, mels) float32: triangles between neighbours on the HTK mel scale,
        mel = 2595 log10(1 + f / 700), from 0 Hz to half the sampling rate, not normalised."""
        half_hz = self.sample_rate_hz / 2
        top_mel = 2595 * math.log10(1 + half_hz / 700)
        edges_hz = 700 * (10 ** (np.linspace(0, top_mel, self.mels + 2) / 2595) - 1)
        widths_hz = np.diff(edges_hz)
        bins_hz = np.linspace(0, half_hz, self.bins)[:, None]
        rising = (bins_hz - edges_hz[:-2]) / widths_hz[:-1]
        falling = (edges_hz[2:] - bins_hz) / widths_hz[1:]
        return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

    def macs(self) -> int:
        """Multiply-accumulates of a clip's log-mel, by this count a frame of N samples:

            window N + real FFT N log2 N + power 2 (N/2 + 1) + mel filters 2 (N/2 + 1)

        The FFT is a radix-2 count of half a complex transform, four real products a butterfly; of
        the filter bank only the two triangles that cover a bin count. The logarithm is left out.
        """
        n = self.window_samples
        return self.frames * round(n + n * math.log2(n) + 2 * self.bins + 2 * self.bins)


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network. `kernel` and `stride` are over (mels, frames)."""

    channels: int
    hidden: int
    layers: int = 2
    kernel: tuple[int, int] = (5, 20)
    stride: tuple[int, int] = (2, 8)
    dropout: float = 0.1
    front_end: FrontEnd = field(default_factory=FrontEnd)

    def __post_init__(self):
        for name in ("channels", "hidden", "layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 4096:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to 4096")
        for name in ("kernel", "stride"):
            value = getattr(self, name)
            if len(value) != 2 or not all(isinstance(v, int) and v >= 1 for v in value):
                raise ValueError(f"{name} is {value!r}; it must be two whole numbers, at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; it must be from 0 to below 1")
        if self.conv_mels < 1 or self.steps < 1:
            raise ValueError(f"kernel {self.kernel} is larger than a clip's log-mel spectrogram")

    @property
    def conv_mels(self) -> int:
        """Rows of the convolution's output."""
        return (self.front_end.mels - self.kernel[0]) // self.stride[0] + 1

    @property
    def steps(self) -> int:
        """Time steps of a clip after the convolution: what GRU and attention see."""
        return (self.front_end.frames - self.kernel[1]) // self.stride[1] + 1

    @property
    def step_s(self) -> float:
        """Seconds from one step to the next."""
        front_end = self.front_end
        return self.stride[1] * front_end.hop_samples / front_end.sample_rate_hz

    @property
    def gru_inputs(self) -> int:
        return self.channels * self.conv_mels

    def parameters(self) -> dict[str, int]:
        """Parameters by part."""
        h = self.hidden
        inputs = [self.gru_inputs] + [h] * (self.layers - 1)
        return {
            "convolution": self.channels * (math.prod(self.kernel) + 1),
            "gru": sum(3 * ((i + h) * h + 2 * h) for i in inputs),
            "attention": (h * h + h) + (h + 1),
            "classifier": CLASSES * (h + 1),
        }

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of a clip by part, by the rule that the reference's counter followed:
        a convolution's bias counts, the attention's softmax and weighted sum do not.
        """
        c, h, t = self.channels, self.hidden, self.steps
        inputs = [self.gru_inputs] + [h] * (self.layers - 1)
        return {
            "convolution": c * self.conv_mels * t * (math.prod(self.kernel) + 1),
            "gru": sum(t * (3 * ((i + h) * h + 3 * h) + 4 * h) for i in inputs),
            "attention": t * (h * h + h),
            "classifier": CLASSES * h,
        }

    def with_sizes(self, **sizes) -> "Architecture":
        """This architecture with other sizes."""
        return replace(self, **sizes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Architecture":
        """Reads what `to_json` wrote; a missing or unknown field raises `ValueError`."""
        try:
            values = json.loads(text)
            front_end = FrontEnd(**values.pop("front_end"))
            kernel, stride = tuple(values.pop("kernel")), tuple(values.pop("stride"))
            return Architecture(**values, kernel=kernel, stride=stride, front_end=front_end)
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not the description of an architecture: {error}") from None


ARCHITECTURES = {
    "baseline": Architecture(channels=8, hidden=64),
    "student1": Architecture(channels=4, hidden=32),
    "student2": Architecture(channels=4, hidden=16),
    "student3": Architecture(channels=2, hidden=12),
}
