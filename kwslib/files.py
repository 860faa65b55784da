"""Files that are there whole or not at all: JSON, and checkpoints in safetensors. No torch.

A checkpoint holds arrays and metadata and cannot run code. Equal content makes equal bytes. An int8
weight stands in it as int8; the scales of all int8 weights (one a tensor, or one an output channel
of a convolution) stand in the float64 array `scales`, in the order of their names, and
weight = int8 * scale. Metadata are strings: format, architecture, setting, int8 ("dynamic" or
"static"), ranges, detector (JSON), recipe_version, inputs (JSON).
"""

import json
import os
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .architecture import Architecture

FORMAT = "kwslib-2"
SCALES = "scales"
DTYPES = {"float32": "F32", "int8": "I8", "float64": "F64"}
LARGEST_BYTES = 1 << 26  # of a checkpoint: two hundred times the largest that is made here
LARGEST_SCALE = 1e36  # 128 times as much is still a float32
UNFINISHED = ".unfinished"


class FileError(ValueError):
    """A file that cannot be read; the message is one line that names it and says what to do."""


class CheckpointError(FileError):
    """A file that is no checkpoint of ours."""


def write_atomic(path: Path, content: bytes) -> None:
    """The whole content at `path`, or nothing: written beside it, synced, renamed."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file


def sweep(folder: Path) -> None:
    """Removes what killed writes left anywhere in `folder`. Call it where nobody else writes."""
    for path in Path(folder).rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: dict) -> None:
    """JSON in UTF-8. Numbers that are not finite become null: JSON has none."""
    text = json.dumps(values, default=lambda number: number.item())  # NumPy's
    values = json.loads(text, parse_constant=lambda _: None)  # of NaN and Infinity
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file, or `FileError` with the remedy, for instance a command."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise FileError(f"{path} is not there; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read ({error}); {remedy}") from None
    return values


@contextmanager
def _refused(path: Path, what: str = ""):
    """Whatever is wrong with a checkpoint, or a part of it, becomes one line that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, AttributeError, OSError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {what}{' '.join(str(error).split())}") from None


def write_checkpoint(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A checkpoint, its header sorted: the safetensors library shuffles the metadata."""
    header = {"__metadata__": dict(sorted({"format": FORMAT, **metadata}.items()))}
    content, names = b"", sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in names:  # the widest first, so that all are aligned
        start, content = len(content), content + arrays[name].tobytes()
        header[name] = {
            "dtype": DTYPES[arrays[name].dtype.name],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, len(content)],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, struct.pack("<Q", len(text)) + text + content)


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a checkpoint, or `CheckpointError`. Sizes and types are judged before
    any array is read: in safetensors the arrays fill the file."""
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    with _refused(path):
        if (size := Path(path).stat().st_size) > LARGEST_BYTES:
            raise ValueError(f"{size:,} bytes; a checkpoint has up to {LARGEST_BYTES:,}")
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')}; train it anew")
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if wrong := set(types.values()) - set(DTYPES.values()):
                raise ValueError(f"it holds {', '.join(wrong)}; weights are float32 or int8")
            return {name: file.get_tensor(name) for name in types}, metadata


def set_metadata(path: Path, **values: str) -> None:
    """Adds to a checkpoint's metadata, or replaces what it has of the same names."""
    arrays, metadata = read_checkpoint(path)
    write_checkpoint(path, arrays, metadata | values)


def architecture_of(
    metadata: dict[str, str], path: Path, arrays: dict[str, np.ndarray]
) -> Architecture:
    """The architecture that the metadata describe, or `CheckpointError` where they describe none,
    or where the arrays' names, shapes, types or values are not those of such a network."""
    with _refused(path):
        architecture = Architecture.from_json(metadata.get("architecture", ""))
        expected = _expected(architecture, metadata.get("int8"))
        held = {name: (value.shape, value.dtype.name) for name, value in arrays.items()}
        for name in sorted(expected.keys() | held.keys()):
            found, wanted = held.get(name), expected.get(name)
            if found != wanted:
                raise ValueError(f"{name} is {found}; its description says {wanted}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} holds values that are not finite")
        split_scales(arrays, path)
    if metadata.get("int8") == "static":
        with _refused(path, "ranges of its convolution: "):
            ranges_of(metadata)
    return architecture


def _expected(architecture: Architecture, int8: str | None) -> dict[str, tuple[tuple, str]]:
    """Name -> shape and type of every array."""
    if int8 not in (None, "dynamic", "static"):
        raise ValueError(f"int8 is {int8!r}; it must be dynamic or static")
    expected, scales = {}, 0
    for name, shape in architecture.shapes().items():
        is_float = int8 is None or "bias" in name
        is_float |= int8 == "dynamic" and name.startswith("convolution")
        expected[name] = (shape, "float32" if is_float else "int8")
        scales += 0 if is_float else _scales_of(shape)
    return expected | ({SCALES: ((scales,), "float64")} if int8 else {})


def ranges_of(metadata: dict[str, str]) -> tuple[float, int, float, int]:
    """Scale and zero point of a static convolution's input, then of its output, or `ValueError`."""
    scale_in, zero_in, scale_out, zero_out = map(float, metadata.get("ranges", "").split())
    are_scales = all(0 < scale < LARGEST_SCALE for scale in (scale_in, scale_out))
    if not are_scales or any(zero not in range(256) for zero in (zero_in, zero_out)):
        raise ValueError(f"{metadata['ranges']!r} is not a scale and a zero point, twice")
    return scale_in, int(zero_in), scale_out, int(zero_out)


def _scales_of(shape: tuple) -> int:
    return shape[0] if len(shape) == 4 else 1  # of a convolution, one a channel


def split_scales(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Scales of every int8 weight, (1,) or (output channels,); empty for a float checkpoint."""
    names = sorted(name for name, value in arrays.items() if value.dtype == np.int8)
    ends = np.cumsum([_scales_of(arrays[name].shape) for name in names], dtype=int)
    scales = arrays.get(SCALES, np.zeros(0))
    if len(scales) != sum(ends[-1:]) or not ((scales > 0) & (scales < LARGEST_SCALE)).all():
        raise CheckpointError(f"{path}: its scales do not fit its {len(names)} int8 weights")
    return dict(zip(names, np.split(scales, ends), strict=False))


def float_weights(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Every weight as float32, int8 ones times their scale."""
    weights = {name: value for name, value in arrays.items() if name != SCALES}
    for name, scale in split_scales(arrays, path).items():
        value = arrays[name]
        weights[name] = (value * scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.float32)
    return weights


def detector_of(metadata: dict[str, str], path: Path) -> dict | None:
    """threshold and smoothing of the detector that a checkpoint was given; None if it has none."""
    if "detector" not in metadata:
        return None
    with _refused(path, "its detector: "):
        values = json.loads(metadata["detector"])
        threshold, smoothing = values.get("threshold"), values.get("smoothing")
        is_good = type(threshold) in (int, float) and 0 <= threshold <= 1 and len(values) == 2
        if not (is_good and type(smoothing) is int and 1 <= smoothing <= 100):
            raise ValueError("it must have a threshold, 0 to 1, and a smoothing, 1 to 100")
        return values
