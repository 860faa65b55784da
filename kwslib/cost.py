"""What a setting costs: bytes and multiply-accumulates, each by a stated rule. Reads checkpoints.

- `parameters`: how many weights and biases the network has, whatever their type;
- `parameter_bytes`: what they occupy as stored, int8 weights with their scales;
- `file_bytes`: the checkpoint on disk, names and description included;
- `network_macs`: of the network for one window, the study's column; `ptflops_macs` beside it;
- `front_end_macs`, `path_macs`: from samples to log-mels, and from samples to probability.
"""

import io
from pathlib import Path

from . import files
from .architecture import Architecture


def of_checkpoint(path: Path) -> dict[str, int]:
    """The `cost` part of a metrics file, for a float or int8 checkpoint."""
    arrays, metadata = files.read_checkpoint(path)
    architecture = files.architecture_of(metadata, path, arrays)
    return {
        "parameters": sum(architecture.parameters().values()),
        "parameter_bytes": sum(value.nbytes for value in arrays.values()),
        "file_bytes": Path(path).stat().st_size,
        "network_macs": sum(architecture.macs().values()),
        "front_end_macs": architecture.front_end.macs(),
        "path_macs": architecture.path_macs,
        "ptflops_macs": ptflops_macs(architecture),
    }


def by_part(path: Path) -> list[dict]:
    """Rows of part, parameters, bytes as stored and MACs; the front end is the last part."""
    arrays, metadata = files.read_checkpoint(path)
    architecture = files.architecture_of(metadata, path, arrays)
    parameters, macs = architecture.parameters(), architecture.macs()
    stored, scales = dict.fromkeys(parameters, 0), files.split_scales(arrays, path)
    for name in arrays.keys() - {files.SCALES}:
        scale_bytes = scales[name].nbytes if name in scales else 0
        stored[name.split(".")[0]] += arrays[name].nbytes + scale_bytes
    rows = [(part, parameters[part], stored[part], macs[part]) for part in parameters]
    rows.append(("front end", 0, 0, architecture.front_end.macs()))
    names = ("part", "parameters", "bytes", "macs")
    return [dict(zip(names, row, strict=True)) for row in rows]


def ptflops_macs(architecture: Architecture) -> int:
    """ptflops' count of the same network: it includes the tanh and other bias terms."""
    from ptflops import get_model_complexity_info

    from .models import build

    network, inputs = build(architecture, seed=0).eval(), architecture.front_end
    quiet = {"as_strings": False, "print_per_layer_stat": False, "verbose": False}
    macs, _ = get_model_complexity_info(network, (inputs.mels, inputs.frames), **quiet)
    return int(macs)


def seen_parameter_bytes(model) -> int:
    """Bytes of `model.parameters()`. It misreads a quantized network, whose packed weights are no
    parameters: of a dynamic int8 CRNN it sees the float convolution alone."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def torch_save_bytes(model) -> int:
    """Bytes of `torch.save(model.state_dict())`, the study's second measure."""
    import torch

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()
