"""What a setting costs: bytes and multiply-accumulates, each by a stated rule. Reads checkpoints.

- `parameters`: how many weights and biases the network has, whatever their type;
- `parameter_bytes`: what they occupy as stored, int8 weights with their scales;
- `file_bytes`: the checkpoint on disk, names and description included;
- `network_macs`: of the network for one window, the study's column; `ptflops_macs` beside it;
- `front_end_macs`, `path_macs`: from samples to log-mels, and from samples to probability.
"""

from pathlib import Path

from . import files
from .architecture import Architecture


def of_checkpoint(path: Path) -> dict[str, int]:
    """The `cost` part of a metrics file, for a float or int8 checkpoint."""
    arrays, architecture = _read(path)
    return {
        "parameters": sum(architecture.parameters().values()),
        "parameter_bytes": sum(value.nbytes for value in arrays.values()),
        "file_bytes": path.stat().st_size,
        "network_macs": sum(architecture.macs().values()),
        "front_end_macs": architecture.front_end.macs(),
        "path_macs": architecture.path_macs,
        "ptflops_macs": ptflops_macs(architecture),
    }


def by_part(path: Path) -> list[dict]:
    """Rows of part, parameters, bytes as stored and MACs; the front end is the last part."""
    arrays, architecture = _read(path)
    stored = dict.fromkeys(architecture.parameters(), 0)
    for name, array in [*arrays.items(), *files.split_scales(arrays).items()]:
        if name != files.SCALES:
            stored[name.split(".")[0]] += array.nbytes
    parameters, macs = architecture.parameters(), architecture.macs()
    rows = [(part, parameters[part], stored[part], macs[part]) for part in parameters]
    rows.append(("front end", 0, 0, architecture.front_end.macs()))
    return [dict(zip(("part", "parameters", "bytes", "macs"), row, strict=True)) for row in rows]


def _read(path: Path) -> tuple[dict, Architecture]:
    arrays, metadata = files.read_checkpoint(path)
    return arrays, Architecture.from_json(metadata["architecture"])


def ptflops_macs(architecture: Architecture) -> int:
    """ptflops' count of the same network: it includes the tanh and other bias terms."""
    from ptflops import get_model_complexity_info

    from .models import build

    network, inputs = build(architecture, seed=0).eval(), architecture.front_end
    quiet = {"as_strings": False, "print_per_layer_stat": False, "verbose": False}
    return int(get_model_complexity_info(network, (inputs.mels, inputs.frames), **quiet)[0])
