"""The one description of a network and its front end; shapes, parameters and MACs follow from it.

The network is the CRNN with attention of Shan et al. 2018 (arXiv 1803.10916): a convolution over
(mel, frame) without activation, a GRU, additive attention over its outputs, a classifier.
"""

import json
import math
from dataclasses import asdict, dataclass, field

import numpy as np

CLASSES = 2  # other words, the keyword


@dataclass(frozen=True)
class FrontEnd:
    """How audio becomes log-mels: centred Hann windows, power, HTK mels, and of these
    (ln(clamp(power, floor, ceiling)) - centre) / spread."""

    sample_rate_hz: int = 16000
    clip_samples: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    mels: int = 40
    floor: float = 1e-9
    ceiling: float = 1e9
    centre: float = -7.0
    spread: float = 5.0

    @property
    def frames(self) -> int:
        """Frames of one window: one every hop, the first centred on sample 0."""
        return self.clip_samples // self.hop_samples + 1

    def window(self) -> np.ndarray:
        """(window_samples,) float32: a periodic Hann window."""
        return np.hanning(self.window_samples + 1)[:-1].astype(np.float32)

    def filters(self) -> np.ndarray:
        """(bins, mels) float32: triangles of height 1, even in mel = 2595 log10(1 + f / 700)."""
        half_hz, bins = self.sample_rate_hz / 2, self.window_samples // 2 + 1
        mels = np.linspace(0, 2595 * math.log10(1 + half_hz / 700), self.mels + 2)
        edges_hz = 700 * (10 ** (mels / 2595) - 1)
        bins_hz, widths_hz = np.linspace(0, half_hz, bins)[:, None], np.diff(edges_hz)
        rising = (bins_hz - edges_hz[:-2]) / widths_hz[:-1]
        falling = (edges_hz[2:] - bins_hz) / widths_hz[1:]
        return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

    def macs(self) -> int:
        """Multiply-accumulates of a window's log-mels. A frame of n samples takes n for the Hann
        window, n log2 n for the real FFT, and 2 a bin for its power, 2 for the triangles."""
        n = self.window_samples
        return self.frames * round(n + n * math.log2(n) + 4 * (n // 2 + 1))


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
        sizes = (self.channels, self.hidden, self.layers, *self.kernel, *self.stride)
        is_sane = all(type(size) is int and 0 < size <= 1 << 14 for size in sizes)  # fits memory
        is_sane &= len(self.kernel) == len(self.stride) == 2 and 0 <= self.dropout < 1
        if not is_sane or self.conv_mels < 1 or self.steps < 1:
            raise ValueError(f"no network has these sizes, kernel, stride, dropout: {self}")

    @property
    def conv_mels(self) -> int:
        return (self.front_end.mels - self.kernel[0]) // self.stride[0] + 1

    @property
    def steps(self) -> int:
        """Steps of a window after the convolution, which has `conv_mels` rows."""
        return (self.front_end.frames - self.kernel[1]) // self.stride[1] + 1

    @property
    def gru_inputs(self) -> int:
        return self.channels * self.conv_mels

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight and bias, by the names that PyTorch gives them."""
        h, shapes = self.hidden, {"convolution.weight": (self.channels, 1, *self.kernel)}
        for n in range(self.layers):
            shapes[f"gru.weight_ih_l{n}"] = 3 * h, h if n else self.gru_inputs
            shapes[f"gru.weight_hh_l{n}"] = 3 * h, h
        shapes |= {"attention.0.weight": (h, h), "attention.2.weight": (1, h)}
        shapes["classifier.weight"] = CLASSES, h
        return shapes | {n.replace("weight", "bias"): shape[:1] for n, shape in shapes.items()}

    def parameters(self) -> dict[str, int]:
        """Parameters by part."""
        sizes = [(name.split(".")[0], math.prod(shape)) for name, shape in self.shapes().items()]
        return {part: sum(size for of, size in sizes if of == part) for part in self.macs()}

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of a window by part, by the rule that the study's counter followed:
        a convolution's bias counts, the attention's softmax and weighted sum do not."""
        c, h, t = self.channels, self.hidden, self.steps
        inputs = [self.gru_inputs] + [h] * (self.layers - 1)
        return {
            "convolution": c * self.conv_mels * t * (math.prod(self.kernel) + 1),
            "gru": t * sum(3 * ((i + h) * h + 3 * h) + 4 * h for i in inputs),
            "attention": t * (h * h + h),
            "classifier": CLASSES * h,
        }

    @property
    def path_macs(self) -> int:
        """From samples to probability: network and front end."""
        return sum(self.macs().values()) + self.front_end.macs()

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Architecture":
        """What `to_json` wrote; `ValueError` for other text, and another front end than ours."""
        try:
            values = json.loads(text)
            pairs = {name: tuple(values[name]) for name in ("kernel", "stride")}
            made = Architecture(**values | pairs | {"front_end": FrontEnd()})
            if json.loads(made.to_json()) == values:
                return made
            raise ValueError("fields are missing, or the front end is another one")
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"not the description of an architecture: {error}") from None


SIZES = {"baseline": (8, 64), "student1": (4, 32), "student2": (4, 16), "student3": (2, 12)}
ARCHITECTURES = {name: Architecture(*sizes) for name, sizes in SIZES.items()}  # channels, hidden
CHAIN = """baseline student1 student1-labels student2 student2-labels student3 student3-labels
baseline-int8-dynamic baseline-int8-static student2-int8-static student3-int8-dynamic
student3-int8-static baseline-stream student3-stream student3-stream-int8-static"""
NAMES = CHAIN.split()  # of the settings, in the order of the notebooks


@dataclass(frozen=True)
class Setting:
    """A network and what was done to it: "" trained on clips, "labels" without a teacher, "stream"
    on windows of continuous audio, and int8 ones of these."""

    network: str
    variant: str = ""

    def __post_init__(self):
        if str(self) not in NAMES:
            raise ValueError(f"setting is {str(self)!r}; it must be one of {', '.join(NAMES)}")

    def __str__(self) -> str:
        return f"{self.network}-{self.variant}" if self.variant else self.network

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.network]

    @property
    def float(self) -> "Setting":
        """The setting that an int8 one is made from; a float setting itself."""
        return Setting(self.network, self.variant.partition("int8")[0].rstrip("-"))

    @property
    def int8(self) -> str | None:
        """How it is quantized: "dynamic", "static", or None for a float network."""
        return self.variant.partition("int8-")[2] or None

    @property
    def is_stream(self) -> bool:
        return self.variant.startswith("stream")

    @property
    def is_control(self) -> bool:
        return self.variant == "labels"


def setting_named(name: str) -> Setting:
    """The setting of this name, or `ValueError` listing them."""
    return Setting(*name.split("-", 1))


SETTINGS = tuple(map(setting_named, NAMES))
