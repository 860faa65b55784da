"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Two modes. `window` scores the last second at every step exactly as offline scoring does: each second
begins with a GRU that has heard nothing, so as many windows as a second has steps (11) advance side
by side, in one product each step. `carried` lets one GRU run on from the stream's start, with
attention over its outputs of the last second: offline, that is the network run over the whole
recording at once. Either way the results do not depend on how the stream is cut, to the last bit.

What is no audio is defined. A sample that is no number is silence, one beyond full scale is cut to
it; neither lasts longer than its second (in `carried`, than the GRU remembers). Digital silence is
log-mels at their floor. A gap that is known is `skip`ped: time goes on, the rest is forgotten. An
int8 checkpoint runs with its weights as floats (int8 times scale).
"""

import copy
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from . import checkpoints
from .architecture import Architecture
from .events import Detector

MODES = ("window", "carried")


@dataclass
class State:
    """Everything a stream remembers, a plain value: copy it, keep it, set it back. `vars(state)` is
    what `numpy.savez` takes, and State(**numpy.load(path)) what it gives back."""

    samples: np.ndarray  # (pending,) float32 from the next frame's first sample on
    began: int  # samples skipped or heard before the first one of this stretch
    heard: int  # samples heard since then
    frames: np.ndarray  # (kept, mels) log-mels that the next step still needs
    step: int  # steps made in this stretch
    hidden: np.ndarray  # (layers, windows, hidden) GRU states, the oldest window first
    outputs: np.ndarray  # (windows, steps, hidden) last GRU outputs of each window, the oldest first


class Stream:
    """A keyword spotter on one stream.

    weights: float32 arrays by name, as `checkpoints.float_weights` gives them. `window` gives its
    first row when the first second is complete; `carried` at the first full kernel (20 frames), with
    attention over what there is until it has a second.
    """

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray], mode: str = "carried"):
        self.architecture = a = architecture
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be {' or '.join(MODES)}")
        if a.steps < 2 or a.stride[1] > a.kernel[1]:
            raise ValueError("a stream needs two steps a clip, and a kernel at least as long as its stride")
        self.mode, front_end = mode, a.front_end
        self._windows = a.steps if mode == "window" else 1
        self._hann = front_end.window()
        self._filters = np.repeat(front_end.filters(), 2, axis=0)  # real and imaginary squares side by side
        kernel = weights["convolution.weight"].reshape(a.channels, *a.kernel)
        self._kernel = np.ascontiguousarray(kernel.transpose(2, 1, 0)).reshape(-1, a.channels)
        self._kernel_bias = weights["convolution.bias"]
        self._gru = [_Layer(weights, layer) for layer in range(a.layers)]
        # The convolution leaves (conv_mels, channels); the study's GRU reads (channels, conv_mels).
        first = self._gru[0]
        first.inputs = np.ascontiguousarray(
            first.inputs.reshape(a.channels, a.conv_mels, -1).swapaxes(0, 1).reshape(a.gru_inputs, -1)
        )
        self._attend = np.ascontiguousarray(weights["attention.0.weight"].T), weights["attention.0.bias"]
        self._energy = weights["attention.2.weight"][0]  # its bias shifts all energies alike
        # Of two classes the difference of logits decides.
        self._keyword = weights["classifier.weight"][1] - weights["classifier.weight"][0]
        self._keyword_bias = weights["classifier.bias"][1] - weights["classifier.bias"][0]
        self._block = np.zeros((a.kernel[1], front_end.mels), np.float32)  # log-mels under the kernel
        height, mel = a.kernel[0], self._block.itemsize
        self._patches = np.ndarray(  # (conv_mels, kernel frames, kernel mels) onto the block
            (a.conv_mels, a.kernel[1], height),
            np.float32,
            self._block,
            strides=(a.stride[0] * mel, front_end.mels * mel, mel),
        )
        self.reset()

    @classmethod
    def load(cls, path: Path, mode: str = "carried") -> "Stream":
        """The stream of a checkpoint, or `CheckpointError`."""
        arrays, metadata = checkpoints.read(path)
        architecture = checkpoints.architecture_of(metadata, path, arrays)
        try:
            return cls(architecture, checkpoints.float_weights(arrays, path), mode)
        except KeyError as error:
            raise checkpoints.CheckpointError(f"{path}: {error} is neither float32 nor int8") from None

    @property
    def latency_s(self) -> float:
        """Seconds of audio past a step's last frame centre that the step waits for."""
        front_end = self.architecture.front_end
        return front_end.window_samples / 2 / front_end.sample_rate_hz

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start, heard or skipped."""
        return (self._state.began + self._state.heard) / self.architecture.front_end.sample_rate_hz

    def reset(self) -> None:
        """Forgets everything heard; the next sample is at 0 s."""
        a = self.architecture
        self._state = State(
            samples=np.zeros(0, np.float32),
            began=0,
            heard=0,
            frames=np.zeros((0, a.front_end.mels), np.float32),
            step=0,
            hidden=np.zeros((a.layers, self._windows, a.hidden), np.float32),
            outputs=np.zeros((self._windows, a.steps, a.hidden), np.float32),
        )

    def skip(self, samples: int) -> None:
        """A gap: so many samples were lost. Forgets everything heard; the next sample comes after it."""
        if samples < 0:
            raise ValueError(f"a gap of {samples} samples; it must not be negative")
        began = self._state.began + self._state.heard + int(samples)
        self.reset()
        self._state.began = began

    @property
    def state(self) -> State:
        """A copy of the state; assign one to go on from there."""
        return copy.deepcopy(self._state)

    @state.setter
    def state(self, state: State) -> None:
        values = {field.name: getattr(state, field.name) for field in fields(State)}
        for name in ("hidden", "outputs"):
            if np.shape(values[name]) != getattr(self._state, name).shape:
                raise ValueError(f"not a state of a {self.mode} stream of this architecture: {name} is "
                                 f"{np.shape(values[name])}, not {getattr(self._state, name).shape}")  # fmt: skip
        whole = ("began", "heard", "step")  # come back from savez as arrays
        self._state = State(
            **{n: int(v) if n in whole else np.array(v, np.float32) for n, v in values.items()}
        )

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1; any number of them, none included.

        Returns (steps, 2) float64: time in seconds from the stream's start of the step's last
        frame, and the probability of the keyword in the last second.
        """
        samples = _clean(samples)
        state, half = self._state, self.architecture.front_end.window_samples // 2
        waiting = state.heard <= half  # the start is reflected about sample 0: it takes half + 1
        state.heard += len(samples)
        state.samples = np.concatenate([state.samples, samples])
        if waiting and state.heard > half:
            state.samples = np.concatenate([state.samples[half:0:-1], state.samples])
        return self._advance() if state.heard > half else np.zeros((0, 2))

    def flush(self) -> np.ndarray:
        """Ends the stream: reflects its last half window, as offline framing does, and returns the
        steps that this completes. After it the stream must be reset, or skip to where it goes on."""
        state, half = self._state, self.architecture.front_end.window_samples // 2
        if state.heard <= half:
            return np.zeros((0, 2))
        state.samples = np.concatenate([state.samples, state.samples[-2 : -half - 2 : -1]])
        return self._advance()

    def hear(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """A recording from a fresh start, `chunk` samples at a time: (steps, 2) as from `feed`."""
        self.reset()
        pieces = [self.feed(samples[start : start + chunk]) for start in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _advance(self) -> np.ndarray:
        """Makes every step that the pending samples allow. Each step's arrays have the same shapes
        however the samples came, which is what makes the results equal to the last bit."""
        a, state = self.architecture, self._state
        hop, window = a.front_end.hop_samples, a.front_end.window_samples
        kernel_frames, stride = a.kernel[1], a.stride[1]
        first = a.steps - 1 if self.mode == "window" else 0
        rows, start = [], 0
        while True:
            kept = len(state.frames)
            wanted = kernel_frames - kept
            if len(state.samples) - start < (wanted - 1) * hop + window:
                break
            self._block[:kept] = state.frames
            self._log_mels(state.samples[start:], self._block[kept:])
            start += wanted * hop
            state.frames = self._block[stride:].copy()
            probability = self._step()
            if state.step >= first:
                rows.append((self._time_s(state.step), probability))
            state.step += 1
        state.samples = state.samples[start:]
        return np.array(rows).reshape(-1, 2)

    def _time_s(self, step: int) -> float:
        a = self.architecture
        frame = step * a.stride[1] + a.kernel[1] - 1
        return (self._state.began + frame * a.front_end.hop_samples) / a.front_end.sample_rate_hz

    def _log_mels(self, samples: np.ndarray, out: np.ndarray) -> None:
        """(samples,) float32 -> out (frames, mels): as `features.mel_power` and `features.log_mel`."""
        front_end = self.architecture.front_end
        frames = np.ndarray(
            (len(out), front_end.window_samples),
            np.float32,
            samples,
            strides=(front_end.hop_samples * samples.itemsize, samples.itemsize),
        )
        parts = np.fft.rfft(frames * self._hann).view(np.float32)
        power = np.square(parts, out=parts) @ self._filters
        np.maximum(power, front_end.floor, out=power)
        np.log(np.minimum(power, front_end.ceiling, out=power), out=out)

    def _step(self) -> float:
        """One step on the log-mels in the block -> probability of the keyword in the last second."""
        a, state = self.architecture, self._state
        patches = self._patches.reshape(a.conv_mels, -1)
        inputs = (patches @ self._kernel + self._kernel_bias).reshape(1, -1)
        hidden, outputs = state.hidden, state.outputs
        if self.mode == "window":  # the window that is complete makes room for a new one
            hidden[:, :-1] = hidden[:, 1:]
            hidden[:, -1] = 0
            outputs[:-1] = outputs[1:]
        else:
            outputs[0, :-1] = outputs[0, 1:]
        for layer, memory in zip(self._gru, hidden, strict=True):
            inputs = layer.advance(inputs, memory)
            memory[:] = inputs
        if self.mode == "window":  # the newest window's output is its first, the oldest one's its last
            windows = a.steps
            outputs.reshape(windows * windows, -1)[windows - 1 : windows**2 - 1 : windows - 1] = inputs
            last = outputs[0]
        else:
            outputs[0, -1] = inputs
            last = outputs[0, -min(state.step + 1, a.steps) :]
        weight, bias = self._attend
        energies = np.tanh(last @ weight + bias) @ self._energy
        weights = np.exp(energies - energies.max())
        logit = float(weights @ (last @ self._keyword)) / float(weights.sum()) + float(self._keyword_bias)
        return float(1 / (1 + np.exp(-logit))) if logit > -700 else 0.0


def ready(path: Path, mode: str | None = None, **wanted) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. mode None: that of its detector, else `window`.
    wanted: values of `Detector` that take the place of the checkpoint's (None: the checkpoint's, or,
    where it has no detector for the mode, the default)."""
    _, metadata = checkpoints.read(path)
    kept = checkpoints.detectors_of(metadata, path)
    mode = mode or next(iter(kept), "window")
    stream = Stream.load(path, mode)
    values = kept.get(mode, {}) | {name: value for name, value in wanted.items() if value is not None}
    return stream, Detector(**values)


class _Layer:
    """A GRU layer for any number of windows. Weights of the two gates are halved beforehand, as
    sigmoid(x) = tanh(x / 2) / 2 + 1 / 2; halving is exact."""

    def __init__(self, weights: dict[str, np.ndarray], layer: int):
        inputs, hidden, input_bias, hidden_bias = (
            weights[f"gru.{kind}_{side}_l{layer}"] for kind in ("weight", "bias") for side in ("ih", "hh")
        )
        self.size = size = hidden.shape[1]
        half = np.repeat(np.float32([0.5, 0.5, 1]), size)
        self.inputs = np.ascontiguousarray((inputs * half[:, None]).T)
        self.hidden = np.ascontiguousarray((hidden * half[:, None]).T)
        self.input_bias = half * input_bias
        self.input_bias[: 2 * size] += (half * hidden_bias)[: 2 * size]
        self.new_bias = hidden_bias[2 * size :]

    def advance(self, inputs: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """inputs: (windows or 1, inputs), hidden: (windows, hidden) -> (windows, hidden)."""
        size = self.size
        ours, theirs = inputs @ self.inputs + self.input_bias, hidden @ self.hidden
        gates = np.tanh(ours[:, : 2 * size] + theirs[:, : 2 * size])
        gates += 1
        gates *= 0.5
        new = np.tanh(ours[:, 2 * size :] + gates[:, :size] * (theirs[:, 2 * size :] + self.new_bias))
        return new + gates[:, size:] * (hidden - new)


def _clean(samples: np.ndarray) -> np.ndarray:
    """(samples,) float32 from -1 to 1 of what may be int16 or float, and broken."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"samples are {samples.shape}; a stream hears (samples,), one channel")
    if samples.dtype == np.int16:
        return samples * np.float32(1 / 32768)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}; they must be int16 or float")
    if len(samples) and not np.abs(samples).max() <= 1:  # not: so that NaN goes there as well
        samples = np.clip(np.where(np.isfinite(samples), samples, 0), -1, 1)
    return samples.astype(np.float32, copy=False)
