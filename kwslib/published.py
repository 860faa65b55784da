"""Figures that others published on the same task, as frames; sources stand in published.json.

They were measured on another corpus (Speech Commands v0.01, keyword sheila), so of their quality
only 1 - AUC compares: au_fa_fr divided by P N / (P + N)^2 of that corpus.
"""

import json
from pathlib import Path


def _read(part: str) -> dict:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))[part]


def study_share_factor() -> float:
    """P N / (P + N)^2 of the study's corpus: what turns 1 - AUC into au_fa_fr."""
    positives, clips = _read("study")["clips"].values()
    return positives * (clips - positives) / clips**2


def bar() -> dict[str, float]:
    """What the task asked for: au_fa_fr and the same as one_minus_auc, smaller, fewer_network."""
    asked = _read("study")["bar"]
    return {**asked, "one_minus_auc": asked["au_fa_fr"] / study_share_factor()}


def study():
    """A row a setting: au_fa_fr, one_minus_auc, parameters, parameter_bytes, file_bytes and
    network_macs (misread_*: by its counters), and of its baseline smaller, fewer_network."""
    import pandas

    frame = pandas.DataFrame(_read("study")["settings"]).T
    frame["one_minus_auc"] = frame["au_fa_fr"] / study_share_factor()
    frame["smaller"] = frame.loc["baseline", "file_bytes"] / frame["file_bytes"]
    frame["fewer_network"] = frame.loc["baseline", "network_macs"] / frame["network_macs"]
    return frame


def peers():
    """A row a repository, against its own baseline: year, smaller (as each counts it: size_is),
    fewer_network, au_fa_fr, one_minus_auc."""
    import pandas

    frame = pandas.DataFrame(_read("peers")["rows"]).set_index("name")
    frame["one_minus_auc"] = frame["au_fa_fr"] / study_share_factor()
    return frame
