"""The one description of a network and its front end; shapes, parameters and MACs follow from it.

The network is the CRNN with attention of Shan et al. 2018 (arXiv 1803.10916) in the sizes of the
reference study: a convolution over (mel, frame) without activation, a GRU, additive attention over
its outputs, a classifier of two classes. Counts are for one window of one second.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields

import numpy as np

CLASSES = 2  # other words, the keyword
PAIR = tuple[int, int]
# Bounds of the numbers in a description: a file's could ask for any amount of memory.
BOUNDS = {int: (1, 1 << 14), PAIR: (1, 1 << 14), float: (-1e9, 1e9)}


def _check(owner) -> None:
    """`ValueError` naming a field whose numbers have another type or are out of bounds."""
    for f in (f for f in fields(owner) if f.type in BOUNDS):
        value, (low, high) = getattr(owner, f.name), BOUNDS[f.type]
        numbers, kinds = (value, [int, int]) if f.type == PAIR else ([value], [f.type])
        if list(map(type, numbers)) != kinds or not all(low <= n <= high for n in numbers):
            kind = f"{len(kinds)} {kinds[0].__name__}"
            raise ValueError(f"{f.name} is {value!r}; it must be {kind} from {low} to {high}")


@dataclass(frozen=True)
class FrontEnd:
    """How audio becomes log-mels: centred Hann windows, power, HTK mels, logarithm, centring.

    log_mel = (ln(clamp(power, floor, ceiling)) - centre) / spread
    """

    sample_rate_hz: int = 16000
    clip_samples: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    mels: int = 40
    floor: float = 1e-9
    ceiling: float = 1e9
    centre: float = -7.0
    spread: float = 5.0

    def __post_init__(self):
        _check(self)
        is_sane = 1e-30 <= self.floor < self.ceiling and self.spread >= 1e-6
        if not is_sane or self.window_samples * self.mels > 1 << 24:
            raise ValueError(f"floor, spread, window_samples or mels of {self} make no front end")

    @property
    def frames(self) -> int:
        """Frames of one window: one every hop, the first centred on sample 0."""
        return self.clip_samples // self.hop_samples + 1

    @property
    def bins(self) -> int:
        return self.window_samples // 2 + 1

    def window(self) -> np.ndarray:
        """(window_samples,) float32: a periodic Hann window."""
        return np.hanning(self.window_samples + 1)[:-1].astype(np.float32)

    def filters(self) -> np.ndarray:
        """(bins, mels) float32: triangles between neighbours on the HTK mel scale,
        mel = 2595 log10(1 + f / 700), from 0 Hz to half the sampling rate, not normalised."""
        half_hz = self.sample_rate_hz / 2
        top_mel = 2595 * math.log10(1 + half_hz / 700)
        edges_hz = 700 * (10 ** (np.linspace(0, top_mel, self.mels + 2) / 2595) - 1)
        bins_hz, widths_hz = np.linspace(0, half_hz, self.bins)[:, None], np.diff(edges_hz)
        rising = (bins_hz - edges_hz[:-2]) / widths_hz[:-1]
        falling = (edges_hz[2:] - bins_hz) / widths_hz[1:]
        return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

    def macs(self) -> int:
        """Multiply-accumulates of a window's log-mels. A frame of n samples takes n for the Hann
        window, n log2 n for the real FFT (half a complex radix-2 one, four products a butterfly),
        and 4 for each bin: 2 of its power, 2 of the triangles over it. The logarithm is free."""
        n = self.window_samples
        return self.frames * round(n + n * math.log2(n) + 4 * self.bins)


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network. `kernel` and `stride` are over (mels, frames)."""

    channels: int
    hidden: int
    layers: int = 2
    kernel: PAIR = (5, 20)
    stride: PAIR = (2, 8)
    dropout: float = 0.1
    front_end: FrontEnd = field(default_factory=FrontEnd)

    def __post_init__(self):
        _check(self)
        if self.conv_mels < 1 or self.steps < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"no network has this kernel, stride, dropout: {self}")

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
        h, weight = self.hidden, (self.channels, 1, *self.kernel)
        shapes = {"convolution.weight": weight, "convolution.bias": (self.channels,)}
        for n in range(self.layers):
            inputs = h if n else self.gru_inputs
            shapes |= {f"gru.weight_ih_l{n}": (3 * h, inputs), f"gru.weight_hh_l{n}": (3 * h, h)}
            shapes |= {f"gru.bias_ih_l{n}": (3 * h,), f"gru.bias_hh_l{n}": (3 * h,)}
        for name, outputs in (("attention.0", h), ("attention.2", 1), ("classifier", CLASSES)):
            shapes |= {f"{name}.weight": (outputs, h), f"{name}.bias": (outputs,)}
        return shapes

    def parameters(self) -> dict[str, int]:
        """Parameters by part."""
        counts = dict.fromkeys(self.macs(), 0)
        for name, shape in self.shapes().items():
            counts[name.split(".")[0]] += math.prod(shape)
        return counts

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
        """MACs of a window from samples to probability: network and front end."""
        return sum(self.macs().values()) + self.front_end.macs()

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Architecture":
        """Reads what `to_json` wrote. `ValueError` for a missing, unknown or absurd field."""
        try:
            values = json.loads(text)
            pairs = {name: tuple(values[name]) for name in ("kernel", "stride")}
            front_end = FrontEnd(**values["front_end"])
            made = Architecture(**values | pairs | {"front_end": front_end})
            if json.loads(made.to_json()) != values:
                raise ValueError("fields are missing")
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"not the description of an architecture: {error}") from None
        return made


ARCHITECTURES = {
    "baseline": Architecture(channels=8, hidden=64),
    "student1": Architecture(channels=4, hidden=32),
    "student2": Architecture(channels=4, hidden=16),
    "student3": Architecture(channels=2, hidden=12),
}
CHAIN = (  # the settings in the order of the notebooks
    "baseline student1 student1-labels student2 student2-labels student3 student3-labels "
    "baseline-int8-dynamic baseline-int8-static student2-int8-static student3-int8-dynamic "
    "student3-int8-static baseline-stream student3-stream student3-stream-int8-static"
)
NAMES = CHAIN.split()


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
