"""Checkpoint files: arrays and metadata in safetensors, which cannot run code. No torch.

`metadata["architecture"]` describes network and front end. An int8 weight NAME stands in the file as
int8; its scales (one a tensor, or one an output channel) stand in the float64 array `scales`, in the
order of the int8 names, and weight = int8 * scale. There are no zero points: weights are symmetric.
`metadata["detectors"]`, where there is one, says how its probabilities are best made into detections.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .architecture import CLASSES, Architecture

FORMAT = "kwslib-1"
SCALES = "scales"
# Of a front end, which no array's shape bounds; many times what is of use, little enough for any memory.
LARGEST = {
    "sample_rate_hz": 10**6,
    "clip_samples": 1 << 17,
    "window_samples": 1 << 17,
    "hop_samples": 1 << 17,
    "mels": 512,
}
MOST_STEPS = 512  # of a clip
LARGEST_SCALE = 1e36  # 128 times as much is still a float32


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours; the message is one line and says why."""


def write_atomic(path: Path, content: bytes) -> None:
    """The whole content at `path`, or nothing: written beside it, synced, renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A checkpoint, whole or not there."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    # ascontiguousarray makes a scalar (1,): keep its shape
    contiguous = {name: value.reshape(arrays[name].shape) for name, value in contiguous.items()}
    write_atomic(path, save(contiguous, metadata={"format": FORMAT, **metadata}))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a checkpoint, or `CheckpointError`."""
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not a safetensors file ({reason})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of kwslib: no format {FORMAT} in its metadata")
    return arrays, metadata


def digest(path: Path) -> str:
    """Of a checkpoint's arrays: by which a result tells of which network it is, whatever becomes of the metadata."""
    found = hashlib.sha256()
    for name, value in sorted(read(path)[0].items()):
        found.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return found.hexdigest()[:16]


def architecture_of(
    metadata: dict[str, str], path: Path, arrays: dict[str, np.ndarray] | None = None
) -> Architecture:
    """The architecture that a checkpoint's metadata describes, or `CheckpointError`; also where the
    arrays, if given, are of other names or shapes."""
    try:
        architecture = Architecture.from_json(metadata.get("architecture", ""))
        expected = shapes(architecture)
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    for name, value in asdict(architecture.front_end).items():
        if type(value) not in (int, float) or not value > 0:
            raise CheckpointError(f"{path}: {name} is {value!r}; it must be a number above 0")
        most = LARGEST.get(name)
        if most and (type(value) is not int or value > most):
            raise CheckpointError(f"{path}: {name} is {value!r}; it must be a whole number up to {most:,}")
    if architecture.steps > MOST_STEPS:
        raise CheckpointError(f"{path}: {architecture.steps:,} steps a clip; they must be up to {MOST_STEPS}")
    if arrays is not None:  # before anything is built: a description may ask for any amount of memory
        for name in sorted(expected.keys() | (arrays.keys() - {SCALES})):
            held = arrays[name].shape if name in arrays else None
            if held != expected.get(name):
                raise CheckpointError(f"{path}: {name} is {held}, by its description {expected.get(name)}")
            if not np.isfinite(arrays[name]).all():
                raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return architecture


def detectors_of(metadata: dict[str, str], path: Path) -> dict[str, dict]:
    """Mode of streaming -> values of `events.Detector`, the mode that is best first, as a checkpoint's
    metadata holds them; {} where it holds none, `CheckpointError` where they are something else."""
    try:
        kept = json.loads(metadata.get("detectors", "{}"))
        names = {"threshold", "smoothing", "release", "refractory_s"}
        is_whole = all(set(values) == names for values in kept.values())
        values = [v for values in kept.values() for v in values.values()]
        is_whole &= all(type(v) in (int, float) and abs(v) < 1e6 for v in values)
    except (ValueError, AttributeError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{path}: its detectors cannot be read")
    return kept


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's weights and biases."""
    a, h = architecture, architecture.hidden
    found = {"convolution.weight": (a.channels, 1, *a.kernel), "convolution.bias": (a.channels,)}
    for layer in range(a.layers):
        inputs = h if layer else a.gru_inputs
        found |= {f"gru.weight_ih_l{layer}": (3 * h, inputs), f"gru.weight_hh_l{layer}": (3 * h, h)}
        found |= {f"gru.bias_ih_l{layer}": (3 * h,), f"gru.bias_hh_l{layer}": (3 * h,)}
    for name, outputs in (("attention.0", h), ("attention.2", 1), ("classifier", CLASSES)):
        found |= {f"{name}.weight": (outputs, h), f"{name}.bias": (outputs,)}
    return found


def split_scales(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Scales of every int8 weight, (1,) or (output channels,) each; empty for a float checkpoint."""
    quantized = sorted(name for name, value in arrays.items() if value.dtype == np.int8)
    sizes = [len(arrays[name]) if arrays[name].ndim == 4 else 1 for name in quantized]
    scales = arrays.get(SCALES, np.zeros(0))
    if scales.shape != (sum(sizes),) or not ((scales > 0).all() and (scales < LARGEST_SCALE).all()):
        raise CheckpointError(f"{path}: its scales do not fit its {len(quantized)} int8 weights")
    return dict(zip(quantized, np.split(scales, np.cumsum(sizes)[:-1]), strict=True)) if quantized else {}


def float_weights(arrays: dict[str, np.ndarray], path: Path = Path()) -> dict[str, np.ndarray]:
    """Every weight as float32, int8 ones times their scale."""
    scales = split_scales(arrays, path)
    weights = {}
    for name, value in arrays.items():
        if name in scales:
            scale = scales[name].reshape((-1,) + (1,) * (value.ndim - 1))
            weights[name] = (value * scale).astype(np.float32)
        elif name != SCALES and value.dtype == np.float32:
            weights[name] = value
    return weights
