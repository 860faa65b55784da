"""A run and its folder: parameters are checked, files lie where everybody looks. No torch."""

import contextlib
import io
import os
import platform
import re
import subprocess
import unicodedata
from dataclasses import dataclass
from functools import partial, partialmethod
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas
from filelock import FileLock, Timeout

from . import data
from .architecture import SETTINGS, Setting
from .files import FileError, read_json, write_atomic, write_json

ROOT = Path(__file__).parent.parent
REPORTS = Path(os.environ.get("KWS_REPORTS") or ROOT / "reports")
PROFILES = ("smoke", "quick", "full")
PACKAGES = ("torch", "numpy", "safetensors", "soundfile", "espeakng-loader", "papermill")
NO_WORD = re.compile(r"^\s*(\.|$)|[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")
READ_CSV = partial(pandas.read_csv, float_precision="round_trip")
CAVEATS = {
    "smoke": "Profile smoke: trained for seconds to see that all runs; the figures mean nothing.",
    "utterance": "Speakers shared: the voices of the tested clips were also heard in training.",
}


class ParameterError(ValueError):
    """A wrong parameter; the message is one line and names what is allowed."""


@dataclass(frozen=True)
class Parameters:
    """The parameters cell of every notebook, checked. A wrong value is a `ParameterError`."""

    corpus: str = "embedded"
    keyword: str = "sheila"
    talk: str | None = None
    profile: str = "quick"
    split: str = "speaker"
    seed: int = 0
    run: str | None = None

    def __post_init__(self):
        is_word = isinstance(self.keyword, str) and not NO_WORD.search(self.keyword)
        is_text = {n: isinstance(v, str) and bool(v.strip()) for n, v in vars(self).items()}
        is_run = self.run is None or (is_text["run"] and self.run not in (".", ".."))
        is_seed = type(self.seed) is int and 0 <= self.seed < 2**31
        for name, is_right, allowed in (
            ("corpus", is_text["corpus"], "text"),
            ("talk", self.talk is None or is_text["talk"], "None or a folder's path"),
            ("run", is_run, "None, a name, or the path of a folder"),
            ("keyword", is_word, "a word, the name of a folder of clips"),
            ("profile", self.profile in PROFILES, f"one of {', '.join(PROFILES)}"),
            ("split", self.split in data.SPLITS, f"one of {', '.join(data.SPLITS)}"),
            ("seed", is_seed, "a whole number from 0 to 2**31 - 1"),
        ):
            if not is_right:
                raise ParameterError(f"{name} is {vars(self)[name]!r}; it must be {allowed}")
        object.__setattr__(self, "keyword", unicodedata.normalize("NFC", self.keyword).strip())

    @property
    def folder(self) -> Path:
        """`run` if it is a path, else a folder of reports/, named after the others by default."""
        named = (data.name_of(self.corpus), self.keyword, self.profile, self.split, self.seed)
        name = self.run or "-".join(map(str, named))
        return Path(name).expanduser() if os.sep in name else REPORTS / name

    @property
    def folds(self) -> int:  # networks that are trained for one setting
        return data.FOLDS if self.split == "folds" else 1

    def named(self) -> dict:
        """What a result depends on: all but `run`, a folder by its name, wherever it lies."""
        names = {"corpus": data.name_of(self.corpus), "talk": self.talk and data.name_of(self.talk)}
        return {n: value for n, value in (vars(self) | names).items() if n != "run"}

    def caveats(self) -> list[str]:
        """What a reader must know before believing a figure of this run."""
        return [CAVEATS[value] for value in (self.profile, self.split) if value in CAVEATS]


def _read_json(path: Path) -> dict:
    values = read_json(path, "")
    if values["setting"] != path.stem:
        raise ValueError("it is of another setting")
    return values


class Run:
    """The folder of one run, made if it is missing, refused if another run lives in it: run.json,
    metrics, streams, history, scores, checkpoints, figures, notebooks, resume."""

    def __init__(self, parameters: Parameters):
        self.parameters, self.folder = parameters, parameters.folder
        ours, path = parameters.named(), self.folder / "run.json"
        with self.locked(".writing", timeout_s=60):
            if not path.is_file():
                write_json(path, {"schema": 2, "parameters": ours, "stages": {}, **provenance()})
        if (held := self.read().get("parameters")) != ours:
            raise ParameterError(f"{path} is of another run, {held}; choose another `run`")

    @contextlib.contextmanager
    def locked(self, name: str = ".lock", timeout_s: float = 0):
        """Holds the run; a `ParameterError` if another process does, or if nobody can."""
        try:
            held = FileLock(self.folder / name).acquire(timeout=timeout_s)
        except Timeout:
            raise ParameterError(f"another report is writing {self.folder}; wait for it") from None
        except OSError as error:
            raise ParameterError(f"cannot write: {error}; set KWS_REPORTS or `run`") from None
        with held:
            yield

    def read(self) -> dict:
        return read_json(self.folder / "run.json", "move it away to start afresh")

    def write(self, **values) -> None:
        """Sets values of run.json. (Notebooks that are open beside the chain write too.)"""
        with self.locked(".writing", timeout_s=60):
            write_json(self.folder / "run.json", self.read() | values)

    def path(self, kind: str, setting: Setting, suffix: str, fold: int = 0) -> Path:
        """KIND/SETTING.SUFFIX, or KIND/SETTING-foldN.SUFFIX for a fold after the first."""
        return self.folder / kind / f"{setting}{f'-fold{fold}' if fold else ''}.{suffix}"

    def checkpoint(self, setting: Setting, fold: int = 0) -> Path:
        return self.path("checkpoints", setting, "safetensors", fold)

    def figure(self, notebook: str, name: str) -> Path:
        return self.folder / "figures" / notebook / f"{name}.png"

    def result(self, kind: str, suffix: str, read, setting: Setting, fold: int = 0):
        """What `read` makes of a result's path, or `FileError`: the file, and how to make it."""
        path = self.path(kind, setting, suffix, fold)
        try:
            return read(path)
        except Exception as error:  # pandas, zipfile, zlib and NumPy have errors of their own
            state = "damaged: delete it and" if path.exists() else "missing:"
            raise FileError(f"{path} is {state} run `kws report`, or its notebook") from error

    metrics = partialmethod(result, "metrics", "json", _read_json)
    streams = partialmethod(result, "streams", "json", _read_json)
    # ids, labels, folds, probabilities of every clip that was scored: (clips,) each.
    scores = partialmethod(result, "scores", "npz", lambda path: dict(np.load(path)))

    def history(self, setting: Setting) -> pandas.DataFrame:
        """A row an epoch, the fold in the first column."""
        folds = range(self.parameters.folds)
        frames = [self.result("history", "csv", READ_CSV, setting, fold) for fold in folds]
        return pandas.concat(frames, keys=folds, names=["fold"]).droplevel(1).reset_index()

    def table(self, settings: list[Setting]) -> pandas.DataFrame:
        """A row a setting: quality, ratios to the baseline, cost, how much smaller. Shares are from
        0 to 1; `smaller` is of file bytes; NaN is what cannot be stated."""
        rows = []
        for found in map(self.metrics, settings):
            versus, quality = found["versus_baseline"], found["quality"]
            row = found["cost"] | {"verdict": versus["verdict"], "smaller": versus["file_bytes"]}
            row |= {f"fewer_{part}": versus[f"{part}_macs"] for part in ("network", "path")}
            row["au_fa_fr"], quality["missed_ratio"] = quality["au_fa_fr"], versus["missed"]
            for name in ("missed", "one_minus_auc", "missed_ratio"):
                row[name], row[f"{name}_low"], row[f"{name}_high"] = np.array(quality[name], float)
            rows.append(row)
        return pandas.DataFrame(rows, index=list(map(str, settings)))

    def measured(self) -> list[Setting]:
        """Settings that have a metrics file, in the chain's order; other files are ignored."""
        return [each for each in SETTINGS if self.path("metrics", each, "json").is_file()]

    def write_history(self, setting: Setting, fold: int, rows: list[dict]) -> None:
        text = pandas.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        write_atomic(self.path("history", setting, "csv", fold), text.encode())

    def write_scores(self, setting: Setting, **arrays: np.ndarray) -> None:
        np.savez_compressed(buffer := io.BytesIO(), **arrays)
        write_atomic(self.path("scores", setting, "npz"), buffer.getvalue())


def provenance(root: Path = ROOT) -> dict:
    """Versions, device, threads; the checkout's commit, '+' where code differs, None without."""
    versions = {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    asked = "git rev-parse --short=12 HEAD && git status --porcelain -- kwslib notebooks"
    said = subprocess.run(asked, shell=True, cwd=root, capture_output=True, text=True).stdout
    head, *changes = said.splitlines() or [""]  # a shell without git writes nothing there
    found = {"versions": versions, "commit": head + "+" * bool(changes) or None}
    return found | {"device": platform.machine(), "threads": threads}
