"""Figures that others published on the same task, as frames; sources stand in published.json.

They were measured on another corpus (Speech Commands v0.01, keyword sheila), so of their quality
only 1 - AUC compares: au_fa_fr divided by that corpus's share factor.
"""

import json
from pathlib import Path

from .metrics import share_factor


def _read() -> dict:
    return json.loads((Path(__file__).parent / "published.json").read_text())


def study_share_factor() -> float:
    """P N / (P + N)^2 of the study's corpus."""
    clips = _read()["study"]["clips"]
    return share_factor(clips["positives"], clips["all"] - clips["positives"])


def bar() -> dict[str, float]:
    """What the task asked for: au_fa_fr, the same as 1 - AUC, and the rate of size and speed."""
    asked = _read()["study"]["bar"]
    return {**asked, "one_minus_auc": asked["au_fa_fr"] / study_share_factor()}


def study():
    """A row a setting: au_fa_fr, one_minus_auc, parameters, parameter_bytes, file_bytes,
    macs_per_clip, misread sizes, and the rates size, file and speed against its baseline."""
    import pandas

    frame = pandas.DataFrame(_read()["study"]["settings"]).T
    frame["one_minus_auc"] = frame["au_fa_fr"] / study_share_factor()
    frame["file_bytes"] = (frame.pop("file_mb") * 2**20).round()
    base = frame.loc["baseline"]
    rates = {"size": "parameter_bytes", "file": "file_bytes", "speed": "macs_per_clip"}
    for rate, column in rates.items():
        frame[rate] = base[column] / frame[column]
    return frame


def peers():
    """A row a repository: size and speed rates against its own baseline, one_minus_auc."""
    import pandas

    frame = pandas.DataFrame(_read()["peers"]["rows"]).set_index("name")
    frame["one_minus_auc"] = frame["au_fa_fr"] / study_share_factor()
    return frame
