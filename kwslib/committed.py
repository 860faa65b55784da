"""The two committed runs, and where their results are read. No torch."""

import json
from pathlib import Path

from . import runs

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports"
SHARED, APART = "speech-commands-happy", "speech-commands-happy-speaker"


def run(name: str) -> runs.Run:
    """A committed run, opened with the parameters that it holds."""
    held = json.loads((REPORTS / name / "run.json").read_text())["parameters"]
    return runs.Run(runs.Parameters(**held, run=str(REPORTS / name)))


def on_stream(name: str, setting: str, mode: str) -> dict:
    """What a run's setting does on streams, as `judging.result` wrote it."""
    return json.loads((REPORTS / name / "streams" / f"{setting}-{mode}.json").read_text())


def benchmark(name: str):
    """What a script of `benchmarks/` wrote."""
    return json.loads((REPORTS / f"{name}.json").read_text())
