"""What a setting costs: bytes and multiply-accumulates, each by a stated rule. Reads checkpoints.

Three measures of size, because the reference study's one misled it:
- *parameters*: how many weights and biases the network has, whatever their type;
- *parameter bytes*: what they occupy as stored, packed int8 weights and their scales included;
- *file bytes*: the checkpoint on disk, names and description included.
"Rates" divide the baseline's figure by a setting's: 12.7 means 12.7 times less.
"""

import io
from pathlib import Path

from . import checkpoints
from .architecture import Architecture


def of_checkpoint(path: Path) -> dict[str, int]:
    """The `cost` part of a metrics file, for a float or int8 checkpoint. MACs are a clip's."""
    arrays, metadata = checkpoints.read(path)
    architecture = checkpoints.architecture_of(metadata, path, arrays)
    return {
        "parameters": sum(architecture.parameters().values()),
        "parameter_bytes": sum(value.nbytes for value in arrays.values()),
        "file_bytes": Path(path).stat().st_size,
        "macs_per_clip": sum(architecture.macs().values()),
        "macs_ptflops": ptflops_macs(architecture),
        "macs_front_end": architecture.front_end.macs(),
    }


def by_part(path: Path) -> list[dict]:
    """Rows of part, parameters, stored bytes and MACs a clip; the front end is the last part."""
    arrays, metadata = checkpoints.read(path)
    architecture = checkpoints.architecture_of(metadata, path, arrays)
    parameters, macs = architecture.parameters(), architecture.macs()
    stored = dict.fromkeys(parameters, 0)
    scales = checkpoints.split_scales(arrays, path)
    for name, value in arrays.items():
        part = name.split(".")[0]
        if part in stored:
            stored[part] += value.nbytes + (scales[name].nbytes if name in scales else 0)
    rows = [
        {"part": part, "parameters": parameters[part], "bytes": stored[part], "macs": macs[part]}
        for part in parameters
    ]
    front_end = {"part": "front end", "parameters": 0, "bytes": 0, "macs": architecture.front_end.macs()}
    return [*rows, front_end]


def ptflops_macs(architecture: Architecture) -> int:
    """ptflops' count of the same network, beside ours: it includes the tanh and other bias terms."""
    from ptflops import get_model_complexity_info

    from .models import build

    front_end = architecture.front_end
    macs, _ = get_model_complexity_info(
        build(architecture).eval(),
        (front_end.mels, front_end.frames),
        as_strings=False,
        print_per_layer_stat=False,
        verbose=False,
    )
    return int(macs)


def seen_parameter_bytes(model) -> int:
    """Bytes of `model.parameters()`: the measure that misreads a quantized network, whose packed
    weights are no parameters. Of a dynamic int8 CRNN it sees the float convolution alone."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def torch_save_bytes(model) -> int:
    """Bytes of `torch.save(model.state_dict())`, the reference study's second measure."""
    import torch

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def rates(setting: dict, baseline: dict) -> dict[str, float]:
    """How many times less a setting costs: two `cost` parts -> rates of size, file and MACs."""
    pairs = {"size": "parameter_bytes", "file": "file_bytes", "speed": "macs_per_clip"}
    return {name: baseline[key] / setting[key] for name, key in pairs.items()}
