"""Files that are there whole or not at all: JSON, and checkpoints in safetensors. No torch.

Equal content makes equal bytes. The float64 array `scales` holds those of all int8 weights by name,
one a tensor or one an output channel of a convolution: weight = int8 * scale. Metadata are strings:
format, architecture, setting, int8 (dynamic or static), ranges, detector, recipe_version, inputs.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .architecture import Architecture

FORMAT = "kwslib-2"
SCALES = "scales"
DTYPES = {"float32": "F32", "int8": "I8", "float64": "F64"}
LARGEST_BYTES = 1 << 26  # of a checkpoint: two hundred times the largest that is made here
DAMAGE = (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError)
LARGEST = 1e36  # of a weight too; 128 times as much is still a float32


class FileError(ValueError):
    """A file that cannot be read; the message is one line that names it and says what to do."""


def write_atomic(path: Path, content: bytes) -> None:
    """The whole content at `path`, or nothing: written beside it, synced, renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
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
    for path in folder.rglob(".*.unfinished"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: dict) -> None:
    """JSON in UTF-8. Numbers that are not finite become null: JSON has none."""
    text = json.dumps(values, default=lambda number: number.item())  # NumPy's
    values = json.loads(text, parse_constant=lambda _: None)  # of NaN and Infinity
    write_atomic(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file, or `FileError` with the remedy, for instance a command."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
        raise ValueError("it holds no object")
    except FileNotFoundError:
        raise FileError(f"{path} is not there; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read ({error}); {remedy}") from None


def write_checkpoint(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A checkpoint, its header sorted: the safetensors library shuffles the metadata."""
    header, content = {"__metadata__": dict(sorted({"format": FORMAT, **metadata}.items()))}, b""
    for name in sorted(arrays, key=lambda n: (-arrays[n].itemsize, n)):  # so that all are aligned
        array, start = arrays[name], len(content)
        content += array.tobytes()
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape}
        header[name]["data_offsets"] = start, len(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, struct.pack("<Q", len(text)) + text + content)


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a checkpoint, or `FileError` where they are not those of a network.
    The size is judged before any array is read: in safetensors the arrays fill the file."""
    try:
        if not path.is_file():
            raise ValueError("no checkpoint is there")
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise ValueError(f"{size:,} bytes; a checkpoint has up to {LARGEST_BYTES:,}")
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')}; train it anew")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check(arrays, metadata)
    except DAMAGE as error:
        raise FileError(f"{path}: {' '.join(str(error).split())}") from None
    return arrays, metadata


def _check(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    int8, expected, scales = metadata.get("int8"), {}, 0
    if int8 not in (None, "dynamic", "static"):
        raise ValueError(f"int8 is {int8!r}; it must be dynamic or static")
    for name, shape in Architecture.from_json(metadata.get("architecture", "")).shapes().items():
        is_int8 = int8 and "weight" in name and (int8 == "static" or "convolution" not in name)
        expected[name] = shape, "int8" if is_int8 else "float32"
        scales += (shape[0] if "convolution" in name else 1) if is_int8 else 0
    expected |= {SCALES: ((scales,), "float64")} if int8 else {}
    held = {name: (value.shape, value.dtype.name) for name, value in arrays.items()}
    for name in sorted(expected.keys() | held.keys()):
        if held.get(name) != expected.get(name):
            raise ValueError(f"{name} must be {expected.get(name)}; it is {held.get(name)}")
        low = 0 if name == SCALES else -LARGEST
        if not ((arrays[name] > low) & (arrays[name] < LARGEST)).all():  # NaN is not
            raise ValueError(f"{name} holds values that no network has")
    ranges = [float(number) for number in metadata.get("ranges", "").split()]
    is_good = len(ranges) == (4 if int8 == "static" else 0) and set(ranges[1::2]) <= set(range(256))
    if not is_good or not all(0 < scale < LARGEST for scale in ranges[::2]):
        raise ValueError(f"ranges are {ranges}; they must be a scale and a zero point, twice")
    detector = json.loads(metadata.get("detector", '{"threshold": 0.5, "smoothing": 1}'))
    is_good = set(detector) == {"threshold", "smoothing"} and type(detector["smoothing"]) is int
    if not (is_good and 0 <= detector["threshold"] <= 1 and 0 < detector["smoothing"] <= 100):
        raise ValueError(f"its detector is {detector}: no threshold and smoothing")


def set_metadata(path: Path, **values: str) -> None:
    """Adds to a checkpoint's metadata, or replaces what it has of the same names."""
    arrays, metadata = read_checkpoint(path)
    write_checkpoint(path, arrays, metadata | values)


def split_scales(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scales of every int8 weight, (1,) or (output channels,); empty for a float checkpoint."""
    names = sorted(name for name, value in arrays.items() if value.dtype == np.int8)
    counts = [len(arrays[name]) if arrays[name].ndim == 4 else 1 for name in names]
    ends = np.cumsum(counts, dtype=int)
    return dict(zip(names, np.split(arrays.get(SCALES, []), ends), strict=False))


def float_weights(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every weight as float32, int8 ones times their scale."""
    weights = {name: value for name, value in arrays.items() if name != SCALES}
    for name, scale in split_scales(arrays).items():  # of all, or along the first axis
        weights[name] = (arrays[name].T * scale).T.astype(np.float32, order="C")
    return weights
