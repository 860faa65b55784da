"""What a checkpoint costs. Bytes are those of the weights as stored (`parameter_bytes`, int8 ones
with their scales) or of the file; multiply-accumulates are of one window: the network's, which is
the study's column, the front end's, and those of the whole path from samples to probability."""

from pathlib import Path

from . import files
from .architecture import Architecture


def of_checkpoint(path: Path) -> dict[str, int]:
    """The `cost` part of a metrics file, for a float or int8 checkpoint."""
    *parts, front_end = by_part(path)
    total = {name: sum(row[name] for row in parts) for name in ("parameters", "bytes", "macs")}
    return {
        "parameters": total["parameters"],
        "parameter_bytes": total["bytes"],
        "file_bytes": path.stat().st_size,
        "network_macs": total["macs"],
        "front_end_macs": front_end["macs"],
        "path_macs": total["macs"] + front_end["macs"],
    }


def by_part(path: Path) -> list[dict]:
    """Rows of part, parameters, bytes as stored and MACs; the front end is the last part."""
    arrays, metadata = files.read_checkpoint(path)
    architecture = Architecture.from_json(metadata["architecture"])
    parameters, macs = architecture.parameters(), architecture.macs()
    stored = dict.fromkeys(parameters, 0)
    for name, array in [*arrays.items(), *files.split_scales(arrays).items()]:
        if name != files.SCALES:
            stored[name.split(".")[0]] += array.nbytes
    rows = [(part, parameters[part], stored[part], macs[part]) for part in parameters]
    rows.append(("front end", 0, 0, architecture.front_end.macs()))
    return [dict(zip(("part", "parameters", "bytes", "macs"), row, strict=True)) for row in rows]
