"""A run and its folder: parameters are checked, files lie where everybody looks. No torch.

`reports/RUN/` holds run.json and the folders figures, metrics, streams, history, scores,
checkpoints, notebooks, and resume (unfinished training). Every file is written whole or not at all.
"""

import contextlib
import io
import os
import platform
import subprocess
import unicodedata
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from . import data
from .architecture import SETTINGS, Setting
from .files import FileError, read_json, sweep, write_atomic, write_json

REPORTS = Path(os.environ.get("KWS_REPORTS") or Path(__file__).parent.parent / "reports")
PROFILES = ("smoke", "quick", "full")
PACKAGES = ("torch", "numpy", "safetensors", "soundfile", "espeakng-loader", "papermill")
AGAIN = "delete it and run the same `kws report` again, which makes what is missing"
CAVEATS = {
    "smoke": "Profile smoke: trained for seconds to see that all runs; the figures mean nothing.",
    "utterance": "Speakers shared: the voices of the tested clips were also heard in training.",
}
FIGURES = ("quality.au_fa_fr", "versus_baseline.verdict", "cost.parameters", "cost.file_bytes")
FIGURES += ("cost.network_macs", "cost.path_macs")
FEWER = {"smaller": "file_bytes", "fewer_network": "network_macs", "fewer_path": "path_macs"}
ESTIMATES = {"missed": "quality.missed", "one_minus_auc": "quality.one_minus_auc"}
ESTIMATES |= {"missed_ratio": "versus_baseline.missed"}


class ParameterError(ValueError):
    """A wrong parameter; the message is one line and names what is allowed."""


class MissingStageError(RuntimeError):
    """A file that an earlier stage writes is not there; the message says how to make it."""


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
        self._check("corpus", _is_text(self.corpus), "text")
        self._check("keyword", _is_text(self.keyword), "text")
        keyword = unicodedata.normalize("NFC", self.keyword).strip()  # macOS decomposes names
        object.__setattr__(self, "keyword", keyword)
        is_control = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in keyword)
        is_word = not is_control and "/" not in keyword and not keyword.startswith(".")
        self._check("keyword", is_word, "a word, the name of a folder of clips")
        self._check("profile", self.profile in PROFILES, f"one of {', '.join(PROFILES)}")
        self._check("split", self.split in data.SPLITS, f"one of {', '.join(data.SPLITS)}")
        is_seed = type(self.seed) is int and 0 <= self.seed < 2**31
        self._check("seed", is_seed, "a whole number from 0 to 2**31 - 1")
        self._check("talk", self.talk is None or _is_text(self.talk), "None or a folder's path")
        is_run = self.run is None or (_is_text(self.run) and self.run not in (".", ".."))
        self._check("run", is_run, "None, a name, or the path of a folder")

    def _check(self, name: str, is_right: bool, allowed: str) -> None:
        if not is_right:
            raise ParameterError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    @property
    def folder(self) -> Path:
        """`run` if it is a path, else a folder of reports/, named after the others by default."""
        if self.run is not None and os.sep in self.run:
            return Path(self.run).expanduser()
        named = (data.name_of(self.corpus), self.keyword, self.profile, self.split, self.seed)
        return REPORTS / (self.run or "-".join(map(str, named)))

    @property
    def folds(self) -> int:
        """How many networks are trained for one setting."""
        return data.FOLDS if self.split == "folds" else 1

    def named(self) -> dict:
        """What a result depends on: all but `run`, a folder by its name, wherever it lies."""
        talk = None if self.talk is None else data.name_of(self.talk)
        values = asdict(self) | {"corpus": data.name_of(self.corpus), "talk": talk}
        return {name: value for name, value in values.items() if name != "run"}

    def caveats(self) -> list[str]:
        """What a reader must know before believing a figure of this run."""
        return [CAVEATS[value] for value in (self.profile, self.split) if value in CAVEATS]


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


class Run:
    """The folder of one run: made if it is missing, refused if another run lives in it."""

    def __init__(self, parameters: Parameters):
        self.parameters, self.folder = parameters, parameters.folder
        ours, path = parameters.named(), self.folder / "run.json"
        with self._lock(".writing"):
            held = self.read().get("parameters")
            if held is None:
                write_json(path, {"schema": 2, "parameters": ours, "stages": {}, **provenance()})
            elif held != ours:
                held = held if isinstance(held, dict) else {}
                pairs = {k: f"{k} {held.get(k)!r}, not {ours[k]!r}" for k in ours}
                differ = ", ".join(text for k, text in pairs.items() if held.get(k) != ours[k])
                raise ParameterError(f"{path} is of another run ({differ}); choose another `run`")

    @contextlib.contextmanager
    def _lock(self, name: str, timeout_s: float = 60):
        lock = FileLock(self.folder / name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout_s)
        except Timeout:
            raise ParameterError(f"another report is writing {self.folder}; wait for it") from None
        except OSError as error:
            remedy = "name a folder that can be written in KWS_REPORTS or `run`"
            reason = f"cannot write in {self.folder} ({error.strerror})"
            raise ParameterError(f"{reason}; {remedy}") from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def locked(self):
        """Holds the run; a `ParameterError` if another process does."""
        with self._lock(".lock", timeout_s=0):
            sweep(self.folder)
            yield

    def read(self) -> dict:
        """run.json, or {} where there is none."""
        path = self.folder / "run.json"
        return read_json(path, "move it away to start afresh") if path.is_file() else {}

    def write(self, **values) -> None:
        """Sets values of run.json. (Notebooks that are open beside the chain write too.)"""
        with self._lock(".writing"):
            write_json(self.folder / "run.json", self.read() | values)

    def path(self, kind: str, setting: Setting, suffix: str, fold: int = 0) -> Path:
        """KIND/SETTING.SUFFIX, or KIND/SETTING-foldN.SUFFIX for a fold after the first."""
        return self.folder / kind / f"{setting}{f'-fold{fold}' if fold else ''}.{suffix}"

    def checkpoint(self, setting: Setting, fold: int = 0) -> Path:
        return self.path("checkpoints", setting, "safetensors", fold)

    def resume(self, setting: Setting, fold: int = 0) -> Path:
        return self.path("resume", setting, "safetensors", fold)

    def figure(self, notebook: str, name: str) -> Path:
        return self.folder / "figures" / notebook / f"{name}.png"

    def needed(self, kind: str, setting: Setting, suffix: str, fold: int = 0) -> Path:
        """The path of a file that must be there, or `MissingStageError`."""
        path = self.path(kind, setting, suffix, fold)
        if not path.is_file():
            raise MissingStageError(
                f"{kind} of {setting} are not in {self.folder}: run the notebook that makes them "
                "first, with the same parameters (`kws report` runs all in order)"
            )
        return path

    def write_history(self, setting: Setting, fold: int, rows: list[dict]) -> None:
        import pandas

        text = pandas.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        write_atomic(self.path("history", setting, "csv", fold), text.encode())

    def history(self, setting: Setting):
        """A pandas frame, a row an epoch, the fold in the first column."""
        import pandas

        frames = {}
        for fold in range(self.parameters.folds):
            path = self.needed("history", setting, "csv", fold)
            try:
                frames[fold] = pandas.read_csv(path, float_precision="round_trip")
            except ValueError as error:  # pandas' parser's, or UTF-8's
                raise FileError(f"{path} is damaged ({error}); {AGAIN}") from None
        return pandas.concat(frames, names=["fold"]).reset_index("fold").reset_index(drop=True)

    def write_scores(self, setting: Setting, ids, labels, folds, probabilities) -> None:
        buffer, ids = io.BytesIO(), np.asarray(ids, str)
        arrays = {"ids": ids, "labels": labels, "folds": folds, "probabilities": probabilities}
        np.savez_compressed(buffer, **arrays)
        write_atomic(self.path("scores", setting, "npz"), buffer.getvalue())

    def scores(self, setting: Setting) -> dict[str, np.ndarray]:
        """ids, labels, folds, probabilities of every clip that was scored: (clips,) each."""
        path = self.needed("scores", setting, "npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ("ids", "labels", "folds", "probabilities")}
            if len({values.shape for values in found.values()}) != 1:
                raise ValueError("lengths differ")
            return found
        except Exception as error:  # zipfile, zlib and NumPy have errors of their own
            raise FileError(f"{path} is damaged ({type(error).__name__}); {AGAIN}") from None

    def write_metrics(self, setting: Setting, values: dict) -> None:
        write_json(self.path("metrics", setting, "json"), values)

    def metrics(self, setting: Setting) -> dict:
        return self._result("metrics", setting, {"quality", "cost", "versus_baseline"})

    def write_streams(self, setting: Setting, values: dict) -> None:
        write_json(self.path("streams", setting, "json"), values)

    def streams(self, setting: Setting) -> dict:
        return self._result("streams", setting, {"detectors", "false_accepts", "missed"})

    def _result(self, kind: str, setting: Setting, keys: set[str]) -> dict:
        path = self.needed(kind, setting, "json")
        values = read_json(path, AGAIN)
        if values.get("setting") != str(setting) or not keys <= set(values):
            raise FileError(f"{path} is damaged (no {kind} of {setting}); {AGAIN}")
        return values

    def measured(self) -> list[Setting]:
        """Settings that have a metrics file, in the chain's order; other files are ignored."""
        return [each for each in SETTINGS if self.path("metrics", each, "json").is_file()]

    def table(self, settings: list[Setting]):
        """A pandas frame, a row a setting: quality, ratios to the baseline, cost, how much smaller.

        Shares are from 0 to 1; `smaller` is of file bytes; NaN is what cannot be stated.
        """
        import pandas

        rows = pandas.json_normalize([self.metrics(each) for each in settings])
        try:
            columns = {key.split(".")[1]: rows[key] for key in FIGURES}
            columns |= {name: rows[f"versus_baseline.{key}"] for name, key in FEWER.items()}
            for name, key in ESTIMATES.items():
                for place, end in enumerate(("", "_low", "_high")):
                    columns[f"{name}{end}"] = pandas.to_numeric(rows[key].str[place])
        except (KeyError, AttributeError, ValueError, TypeError) as error:
            raise FileError(f"{self.folder / 'metrics'} lacks figures ({error}); {AGAIN}") from None
        return pandas.DataFrame(columns).set_index(rows["setting"].rename(None))


def provenance() -> dict:
    """Versions, device, threads and git commit: what a reader needs to compare runs."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    what = {"versions": versions, "device": platform.machine(), "threads": threads}
    return what | {"commit": commit()}


def commit(root: Path = Path(__file__).parent.parent) -> str | None:
    """The checkout's commit, '+' where its code differs from that; None outside a checkout."""
    git, code = ["git", "-C", str(root)], ["kwslib", "notebooks"]
    how = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **how).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", *code], **how).stdout
        return head + "+" * bool(changed.strip())
    except (OSError, subprocess.SubprocessError):
        return None
