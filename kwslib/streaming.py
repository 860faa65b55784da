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

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import checkpoints
from .architecture import Architecture, FrontEnd
from .events import Detector

MODES = ("window", "carried")
# Arrays, as converting a number takes NumPy about as long as adding it to a small array.
_ONE, _HALF, _FULL_SCALE = (np.array(value, np.float32) for value in (1, 0.5, 1 / 32768))
_PIECE = 16000  # samples that are heard at a time: what is fed at once may be hours


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
    is_over: bool = False  # whether it was flushed


class Stream:
    """A keyword spotter on one stream.

    weights: float32 arrays by name, as `checkpoints.float_weights` gives them. `window` gives its
    first row when the first second is complete; `carried` at the first full kernel (20 frames), with
    attention over what there is until it has a second.
    """

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray], mode: str = "carried"):
        self.architecture = a = architecture
        _check(mode)
        if a.steps < 2 or a.stride[1] > a.kernel[1]:
            raise ValueError("a stream needs two steps a clip, and a kernel at least as long as its stride")
        self.mode, front_end, self._weights = mode, a.front_end, weights
        if front_end.hop_samples > front_end.window_samples:
            raise ValueError("a stream needs windows at least as long as their hop")
        windows = a.steps if mode == "window" else 1
        self._first = a.steps - 1 if mode == "window" else 0  # step that is the first to have a row
        # Log-mels under the kernel; after them a 1, by which biases are part of the weights.
        self._inputs = np.ones(a.kernel[1] * front_end.mels + 1, np.float32)
        self._block = self._inputs[:-1].reshape(a.kernel[1], front_end.mels)
        # Those of the first step, and those that are new at all others.
        self._log_mels = tuple(_LogMels(front_end, self._block[-n:]) for n in (a.kernel[1], a.stride[1]))
        # Samples from the next frame's first one on: room for what waits for a step, a piece, and the end reflected.
        room = self._log_mels[0].needed + _PIECE + front_end.window_samples
        self._samples = np.zeros(room, np.float32)
        # A column a window, so that what is worked on together lies together. States of the layers, the last
        # layer's first, with a row of 1 before the first layer's: each layer reads rows that are neighbours.
        self._states = np.zeros((a.layers * a.hidden + 1, windows), np.float32)
        self._unheard = (np.arange(len(self._states)) == (a.layers - 1) * a.hidden).astype(np.float32)
        self._gru = [_Layer(weights, n, a.hidden, self._states) for n in range(a.layers)]
        self._from_inputs = _convolved(weights, a, self._gru[0].from_below)
        # The last outputs of each window, step by step, the oldest window first; below them a row of 1.
        self._outputs = np.ones((a.hidden + 1, windows, a.steps), np.float32)
        flat = self._outputs.reshape(a.hidden + 1, -1)
        # What the oldest window has said; and the newest of each window: of the oldest its last, of the newest its
        # first.
        self._last = flat[:, : a.steps]
        self._newest = flat[:-1, a.steps - 1 : -1 : a.steps - 1] if windows > 1 else flat[:-1, -1:]
        # Where a step moves what is kept, and from where: outputs and states by a window, or outputs by a step;
        # log-mels by the stride. What comes from the next row is of the newest, and written anew.
        self._outputs_to, self._outputs_from = _moved(self._outputs, a.steps if windows > 1 else 1)
        self._states_to, self._states_from = _moved(self._states, 1)
        self._frames_to, self._frames_from = _moved(self._block, a.stride[1] * front_end.mels)
        attend, energy, classify = "attention.0", "attention.2", "classifier"
        self._energy = weights[f"{energy}.weight"][0]  # its bias shifts all energies alike
        # An energy is at most the sum of these weights: small enough for exp, or the largest is taken off.
        self._is_small = np.abs(self._energy).sum() < 80
        other, keyword = _with_bias(weights, classify)
        # Beside the attention: the difference of logits, which decides between two classes, and the 1 that the
        # outputs end in.
        one = np.eye(a.hidden + 1, dtype=np.float32)[-1]
        self._read = np.vstack([_with_bias(weights, attend), keyword - other, one])
        self.reset()

    @classmethod
    def load(cls, path: Path, mode: str = "carried") -> "Stream":
        """The stream of a checkpoint, or `CheckpointError`."""
        _check(mode)
        arrays, metadata = checkpoints.read(path)
        architecture = checkpoints.architecture_of(metadata, path, arrays)
        weights = checkpoints.float_weights(arrays, path)
        try:
            return cls(architecture, weights, mode)
        except KeyError as error:
            raise checkpoints.CheckpointError(f"{path}: {error} is neither float32 nor int8") from None
        except ValueError as error:
            raise checkpoints.CheckpointError(f"{path}: {error}") from None

    def __reduce__(self):
        return Stream, (self.architecture, self._weights, self.mode), self.state

    def __setstate__(self, state: State) -> None:
        self.state = state

    @property
    def latency_s(self) -> float:
        """Seconds of audio past a step's last frame centre that the step waits for."""
        front_end = self.architecture.front_end
        return front_end.window_samples / 2 / front_end.sample_rate_hz

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start, heard or skipped."""
        return (self._began + self._heard) / self.architecture.front_end.sample_rate_hz

    def reset(self) -> None:
        """Forgets everything heard; the next sample is at 0 s."""
        # The start is reflected about sample 0: in front of it room for half a window.
        self._pending, self._began, self._heard = self.architecture.front_end.window_samples // 2, 0, 0
        self._steps, self._is_over = 0, False
        self._outputs[:-1] = 0
        self._states[:] = self._unheard[:, None]

    def skip(self, samples: int) -> None:
        """A gap: so many samples were lost. Forgets everything heard; the next sample comes after it."""
        if samples < 0:
            raise ValueError(f"a gap of {samples} samples; it must not be negative")
        began = self._began + self._heard + int(samples)
        self.reset()
        self._began = began

    @property
    def state(self) -> State:
        """A copy of the state; assign one to go on from there."""
        return State(
            samples=self._samples[self._unreflected(self._heard) : self._pending].copy(),
            began=self._began,
            heard=self._heard,
            frames=self._block[: self._kept(self._steps)].copy(),
            step=self._steps,
            hidden=np.stack([layer.hidden.T for layer in self._gru]),
            outputs=self._outputs[:-1].transpose(1, 2, 0).copy(),
            is_over=self._is_over,
        )

    @state.setter
    def state(self, state: State) -> None:
        a = self.architecture
        # Arrays after numpy.load.
        began, heard, step = (int(n) for n in (state.began, state.heard, state.step))
        if min(began, heard, step) < 0:
            raise ValueError(f"not a state: began {began}, heard {heard}, step {step}; none may be negative")
        kept, waiting = self._kept(step), np.size(state.samples)
        shapes = {
            "samples": (heard if self._unreflected(heard) else waiting,),
            "frames": (kept, a.front_end.mels),
            "hidden": (a.layers, self._states.shape[1], a.hidden),
            "outputs": (*self._outputs.shape[1:], a.hidden),
        }
        values = {name: np.array(getattr(state, name), np.float32) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ValueError(
                    f"not a state of a {self.mode} stream of this architecture: {name} is "
                    f"{values[name].shape}, not {shape}"
                )
            if not np.isfinite(values[name]).all():
                raise ValueError(f"not a state: {name} holds values that are not finite")
        if waiting >= self._log_mels[step > 0].needed:
            raise ValueError(f"not a state: {waiting} samples wait, which are enough for a step")
        self._began, self._heard, self._steps, self._is_over = began, heard, step, bool(state.is_over)
        first = self._unreflected(heard)
        self._pending = first + waiting
        self._samples[first : self._pending] = values["samples"]
        self._block[:kept] = values["frames"]
        self._outputs[:-1] = values["outputs"].transpose(2, 0, 1)
        for layer, hidden in zip(self._gru, values["hidden"], strict=True):
            layer.hidden[:] = hidden.T

    def _kept(self, steps: int) -> int:
        """Log-mels that the next step still needs, after so many steps."""
        return self.architecture.kernel[1] - self.architecture.stride[1] if steps else 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1; any number of them, none included.

        Returns (steps, 2) float64: time in seconds from the stream's start of the step's last
        frame, and the probability of the keyword in the last second.
        """
        self._goes_on()
        samples, scale = _clean(samples)
        rows = []
        for start in range(0, len(samples), _PIECE):
            self._hear(samples[start : start + _PIECE], scale, rows)
        return np.array(rows) if rows else np.zeros((0, 2))

    def flush(self) -> np.ndarray:
        """Ends the stream: reflects its last half window, as offline framing does, and returns the
        steps that this completes. After it the stream must be reset, or skip to where it goes on."""
        self._goes_on()
        self._is_over, rows, end = True, [], self._pending
        if not self._unreflected(self._heard):
            half = self.architecture.front_end.window_samples // 2
            reflected = self._samples[:end][-2 : -half - 2 : -1]
            self._pending += len(reflected)
            self._samples[end : self._pending] = reflected
            self._advance(rows)
        return np.array(rows) if rows else np.zeros((0, 2))

    def hear(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """A recording from a fresh start, `chunk` samples at a time: (steps, 2) as from `feed`."""
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; it must be at least 1 sample")
        self.reset()
        pieces = [self.feed(samples[start : start + chunk]) for start in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _goes_on(self) -> None:
        if self._is_over:
            raise ValueError("the stream was flushed; reset it, or skip to where it goes on")

    def _unreflected(self, heard: int) -> int:
        """Samples before the stream's first that are not known yet: half a window, and it takes one more to know."""
        half = self.architecture.front_end.window_samples // 2
        return half if heard <= half else 0

    def _hear(self, samples: np.ndarray, scale: np.ndarray, rows: list) -> None:
        """Hears at most a piece of samples, to be scaled, and adds what each step says to the rows."""
        unknown, end = self._unreflected(self._heard), self._pending + len(samples)
        np.multiply(samples, scale, out=self._samples[self._pending : end])
        self._pending = end
        self._heard += len(samples)
        if unknown:
            if self._unreflected(self._heard):
                return
            self._samples[:unknown] = self._samples[2 * unknown : unknown : -1]
        self._advance(rows)

    def _advance(self, rows: list) -> None:
        """Makes every step that the pending samples allow. Each step's arrays have the same shapes
        however the samples came, which is what makes the results equal to the last bit."""
        a, end, start = self.architecture, self._pending, 0
        log_mels = self._log_mels[self._steps > 0]
        while end - start >= log_mels.needed:
            log_mels.make(self._samples, start)
            start += log_mels.taken
            probability = self._step()
            if self._steps >= self._first:
                last = (self._steps * a.stride[1] + a.kernel[1] - 1) * a.front_end.hop_samples
                rows.append(((self._began + last) / a.front_end.sample_rate_hz, probability))
            self._steps += 1
            self._frames_to[:] = self._frames_from
            log_mels = self._log_mels[1]
        if start:
            self._pending = end - start
            self._samples[: self._pending] = self._samples[start:end]

    def _step(self) -> float:
        """One step on the log-mels in the block -> probability of the keyword in the last second."""
        self._outputs_to[:] = self._outputs_from
        last = self._last
        if self.mode == "window":  # the window that is complete makes room for a new one
            self._states_to[:] = self._states_from
            self._states[:, -1] = self._unheard
        elif self._steps + 1 < last.shape[1]:
            last = last[:, -self._steps - 1 :]
        np.dot(self._inputs, self._from_inputs, out=self._gru[0].of_inputs)
        for layer in self._gru:
            layer.advance()
        self._newest[:] = layer.hidden
        read = np.dot(self._read, last)
        energies = np.dot(self._energy, np.tanh(read[:-2]))
        weights = np.exp(energies if self._is_small else energies - energies.max())
        logit, total = np.dot(read[-2:], weights).tolist()
        return 0.0 if logit <= -700 * total else 1 / (1 + math.exp(-logit / total))  # NaN stays NaN


class _LogMels:
    """Log-mels of as many frames as `out` has rows (frames, mels), into it: as `features.mel_power` and
    `features.log_mel`."""

    def __init__(self, front_end: FrontEnd, out: np.ndarray):
        hop, window = front_end.hop_samples, front_end.window_samples
        self.needed, self.taken = (len(out) - 1) * hop + window, len(out) * hop  # samples
        # Times its length, by which the forward norm divides: NumPy converts the default norm's 1 at each
        # call, which takes a good part of the transform's time.
        self._hann = front_end.window() * np.float32(window)
        filters = front_end.filters()
        self._filters = np.repeat(filters, 2, axis=0)  # for squares of real and imaginary parts in turn
        self._floor = np.array(front_end.floor, np.float32)
        loudest = front_end.window().sum() ** 2 * filters.sum(axis=0).max()  # samples are at most 1
        self._ceiling = np.array(front_end.ceiling, np.float32) if loudest >= front_end.ceiling else None
        self._out, self._shape, self._strides = out, (len(out), window), (4 * hop, 4)
        self._frames = np.zeros(self._shape, np.float32)
        self._spectra = np.zeros((len(out), front_end.bins), np.complex64)
        self._parts = self._spectra.view(np.float32)

    def make(self, samples: np.ndarray, start: int) -> None:
        """Of (samples,) float32, from the first frame's first one on: `needed` of them."""
        out, parts = self._out, self._parts
        frames = np.ndarray(self._shape, np.float32, samples, 4 * start, self._strides)
        np.multiply(frames, self._hann, out=self._frames)
        np.fft.rfft(self._frames, norm="forward", out=self._spectra)
        np.square(parts, out=parts)
        np.dot(parts, self._filters, out=out)
        np.maximum(out, self._floor, out=out)
        if self._ceiling is not None:
            np.minimum(out, self._ceiling, out=out)
        np.log(out, out=out)


class _Layer:
    """A GRU layer for any number of windows, in one product a step; states change in place. With t = tanh(x / 2),
    sigmoid(x) is (1 + t) / 2: the halves are in the weights, but for the one of the update gate. Of its own state h
    and that of the layer below, x:

        t_r, t_z = tanh((x W + h U) / 2)
        b = h U_n / 2,  n = tanh(x W_n + b + t_r b)
        h' = n + (1 + t_z) / 2 (h - n)
    """

    def __init__(self, weights: dict[str, np.ndarray], layer: int, size: int, states: np.ndarray):
        """states: (layers * size + 1, windows), of all layers, as in `Stream`."""
        inputs, hidden, input_bias, hidden_bias = (
            weights[f"gru.{kind}_{side}_l{layer}"].T for kind in ("weight", "bias") for side in ("ih", "hh")
        )
        halves, one = np.repeat(np.float32([0.5, 0.5, 1]), size), len(states) - size - 1
        # (inputs + 1, 3 size), of inputs that end in a 1: the gates', halved, and x W_n + b.
        self.from_below = np.vstack([inputs * halves, input_bias * halves + hidden_bias / 2])
        # (rows of states, 4 size): the same and b.
        read = np.zeros((len(states), 4 * size), np.float32)
        own, below = (one + 1 if n == 0 else one - n * size for n in (layer, layer - 1))
        read[own : own + size] = np.hstack([hidden, hidden[:, -size:]]) / 2
        read[one] = np.hstack([self.from_below[-1], hidden_bias[-size:] / 2])
        if layer:
            read[below : below + size, : 3 * size] = self.from_below[:-1]
        rows = slice(min(own, one), None if layer < 2 else one + 1)
        self._weights, self._states, self.hidden = read[rows], states[rows], states[own : own + size]
        # Of the first layer, where the part of its inputs goes, which is the same for all windows.
        self.of_inputs = self._weights[0, : 3 * size]
        self._made = np.zeros((4 * size, states.shape[1]), np.float32)
        # Views, as making one takes as long as adding two rows.
        self._reset, self._update, self._new, self._recalled = np.split(self._made, 4)
        self._gates, self._turned = self._made[: 2 * size], self._weights.T

    def advance(self) -> None:
        """The next step of every window."""
        hidden, reset, update, new = self.hidden, self._reset, self._update, self._new
        np.dot(self._turned, self._states, out=self._made)
        np.tanh(self._gates, out=self._gates)
        np.multiply(reset, self._recalled, out=reset)
        np.add(new, reset, out=new)
        np.tanh(new, out=new)
        np.add(update, _ONE, out=update)
        np.subtract(hidden, new, out=hidden)
        np.multiply(hidden, update, out=hidden)
        np.multiply(hidden, _HALF, out=hidden)
        np.add(hidden, new, out=hidden)


def _convolved(weights: dict[str, np.ndarray], a: Architecture, input_weights: np.ndarray) -> np.ndarray:
    """(kernel frames * mels + 1, 3 hidden): convolution and the first layer's input weights in one, as
    there is nothing but a sum between them. input_weights: (channels * conv_mels + 1, 3 hidden)."""
    kernel = weights["convolution.weight"][:, 0].astype(np.float64)  # (channels, kernel mels, frames)
    of_maps = input_weights[:-1].astype(np.float64).reshape(a.channels, a.conv_mels, -1)
    made = np.zeros((a.kernel[1], a.front_end.mels, of_maps.shape[2]))
    for row in range(a.conv_mels):
        under = slice(row * a.stride[0], row * a.stride[0] + a.kernel[0])
        made[:, under] += np.einsum("cmf,ch->fmh", kernel, of_maps[:, row])
    bias = np.einsum("c,cmh->h", weights["convolution.bias"].astype(np.float64), of_maps) + input_weights[-1]
    return np.concatenate([made.reshape(-1, made.shape[2]), bias[None]]).astype(np.float32)


def _moved(array: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of an array's values, one after another: all but the last `count`, and all but the first. They have one
    dimension, as NumPy assigns overlapping ones of more by way of a copy."""
    flat = array.reshape(-1)
    return flat[: len(flat) - count], flat[count:]


def _with_bias(weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """(outputs, inputs + 1): a linear layer's weights for inputs that end in a 1."""
    return np.concatenate([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], axis=1)


def ready(path: Path, mode: str | None = None, **wanted) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. mode None: that of its detector, else `window`.
    wanted: values of `Detector` that take the place of the checkpoint's (None: the checkpoint's, or,
    where it has no detector for the mode, the default)."""
    _, metadata = checkpoints.read(path)
    kept = checkpoints.detectors_of(metadata, path)
    try:
        for name, values in kept.items():
            Detector(**values)
            _check(name)
    except ValueError as error:
        raise checkpoints.CheckpointError(f"{path}: its detectors cannot be used ({error})") from None
    mode = mode or next(iter(kept), "window")
    stream = Stream.load(path, mode)
    values = kept.get(mode, {}) | {name: value for name, value in wanted.items() if value is not None}
    return stream, Detector(**values)


def _check(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be {' or '.join(MODES)}")


def _clean(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) int16, or float32 from -1 to 1 of floats that may be broken; and what makes them full scale."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"samples are {samples.shape}; a stream hears (samples,), one channel")
    if samples.dtype == np.int16:
        return samples, _FULL_SCALE
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}; they must be int16 or float")
    if len(samples) and not np.abs(samples).max() <= 1:  # not: so that NaN goes there as well
        samples = np.clip(np.where(np.isfinite(samples), samples, 0), -1, 1)
    return samples.astype(np.float32, copy=False), _ONE
