"""A run and its folder: parameters checked, files where everybody looks for them. No torch.

`reports/RUN/` holds run.json and the folders figures, metrics, history, scores, checkpoints,
notebooks, and resume (unfinished training). Every file is written whole or not at all.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from . import metrics
from .checkpoints import write_atomic
from .data import SPLITS, name_of

REPORTS = Path(os.environ.get("KWS_REPORTS") or Path(__file__).parent.parent / "reports")
PROFILES = ("smoke", "quick", "full")
SETTINGS = (
    "baseline",
    "student1",
    "student2",
    "student3",
    "baseline-int8-dynamic",
    "baseline-int8-static",
    "student3-int8-dynamic",
    "student3-int8-static",
    "student2-int8-static",
)
MEASURED_PACKAGES = ("torch", "numpy", "safetensors", "soundfile", "espeakng-loader", "papermill")


class ParameterError(ValueError):
    """A wrong parameter; the message is one line and names what is allowed."""


class MissingStageError(RuntimeError):
    """A file that an earlier stage writes is not there; the message says how to make it."""


@dataclass(frozen=True)
class Parameters:
    """The parameters cell of every notebook, checked."""

    corpus: str = "embedded"
    keyword: str = "sheila"
    profile: str = "quick"
    split: str = "speaker"
    seed: int = 0
    run: str | None = None

    def __post_init__(self):
        for name in ("corpus", "keyword"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ParameterError(f"{name} is {value!r}; it must be text")
        if "/" in self.keyword or "\0" in self.keyword or self.keyword.startswith("."):
            raise ParameterError(
                f"keyword is {self.keyword!r}; it must be a word, the name of a folder of clips"
            )
        for name, allowed in (("profile", PROFILES), ("split", SPLITS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ParameterError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**31:
            raise ParameterError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2**31 - 1")
        if self.run is not None and (not isinstance(self.run, str) or not self.run.strip()):
            raise ParameterError(f"run is {self.run!r}; it must be None, a name, or the path of a folder")

    @property
    def folder(self) -> Path:
        """`run` as a path if it has a separator, a folder of reports/ if it is a name, else a folder
        of reports/ named after the other five."""
        if self.run is None:
            return REPORTS / f"{name_of(self.corpus)}-{self.keyword}-{self.profile}-{self.split}-{self.seed}"
        if os.sep in self.run:
            return Path(self.run).expanduser()
        if self.run in (".", ".."):
            raise ParameterError(f"run is {self.run!r}; it must be None, a name, or the path of a folder")
        return REPORTS / self.run

    def caveats(self) -> list[str]:
        """What a reader must know before believing a figure of this run."""
        notes = []
        if self.profile == "smoke":
            notes.append(
                "Profile smoke: trained for seconds to see that everything runs; figures mean nothing."
            )
        if self.split == "utterance":
            notes.append("Speakers shared: voices heard in training are heard again in what is reported.")
        return notes

    def named(self) -> dict:
        """The five that a result depends on; a corpus folder by its name, not where it lies."""
        values = {k: v for k, v in asdict(self).items() if k != "run"}
        return values | {"corpus": name_of(self.corpus)}


def beside(checkpoint: Path) -> tuple[dict, str]:
    """The parameters, as `Parameters.named`, of the run in whose checkpoints/ a file lies, and the digest of its
    corpus; {} and "" where that is none."""
    try:
        held = json.loads((Path(checkpoint).absolute().parent.parent / "run.json").read_text())
        return Parameters(**held["parameters"]).named(), str(held["corpus_digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}, ""


class Run:
    """The folder of one run; made if it is not there, refused if another run lives in it."""

    def __init__(self, parameters: Parameters):
        self.parameters, self.folder = parameters, parameters.folder
        held = self.read().get("parameters")
        if held is not None and held != parameters.named():
            ours = parameters.named()
            differ = ", ".join(
                f"{k} {held.get(k)!r}, not {ours[k]!r}" for k in ours if held.get(k) != ours[k]
            )
            raise ParameterError(f"{self.folder} holds another run ({differ}); choose another `run`")
        if held is None:
            self.write(schema=1, parameters=parameters.named(), stages={}, **provenance())

    def read(self) -> dict:
        """run.json, or {} where there is none."""
        path = self.folder / "run.json"
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ParameterError(f"{path} is damaged ({error}); move it away to start afresh") from None
        if not isinstance(values, dict):
            raise ParameterError(f"{path} is damaged (not an object); move it away to start afresh")
        return values

    def write(self, **values) -> None:
        """Sets values of run.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".writing", "w") as file:  # notebooks opened beside the chain write too
            fcntl.flock(file, fcntl.LOCK_EX)
            write_json(self.folder / "run.json", self.read() | values)

    @contextlib.contextmanager
    def locked(self):
        """Holds the run; `ParameterError` if another process does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ParameterError(f"{self.folder} is being written by another report") from None
            yield

    def checkpoint(self, setting: str) -> Path:
        return self.folder / "checkpoints" / f"{setting}.safetensors"

    def resume(self, setting: str) -> Path:
        return self.folder / "resume" / f"{setting}.safetensors"

    def figure(self, notebook: str, name: str) -> Path:
        return self.folder / "figures" / notebook / f"{name}.png"

    def made_of(self, setting: str) -> Path:
        """Where digests of a trained network stand, of what it was made of and of its weights."""
        return self.folder / "history" / f"{setting}.json"

    def write_history(self, setting: str, rows: list[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / "history" / f"{setting}.csv", text.getvalue().encode())

    def history(self, setting: str):
        """A pandas frame, a row an epoch."""
        import pandas

        return pandas.read_csv(self.needed("history", setting, "csv"))

    def write_scores(self, setting: str, ids, labels, probabilities) -> None:
        buffer = io.BytesIO()
        arrays = {"ids": ids.astype(str), "labels": labels, "probabilities": probabilities}
        np.savez_compressed(buffer, **arrays)
        write_atomic(self.folder / "scores" / f"{setting}.npz", buffer.getvalue())

    def scores(self, setting: str) -> dict[str, np.ndarray]:
        """ids, labels, probabilities of the part that is reported on: (clips,) each."""
        with np.load(self.needed("scores", setting, "npz"), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def error_ratio(self, setting: str, reference: str) -> tuple[float, float, float]:
        """Errors (au_fa_fr, as 1 - AUC) of a setting over those of another on the same clips, and the 95 % interval
        of this ratio over resampled speakers."""
        mine, theirs = self.scores(setting), self.scores(reference)
        if not np.array_equal(mine["ids"], theirs["ids"]):
            raise MissingStageError(
                f"scores of {setting} and {reference} are of different clips: run the notebooks that make them again"
            )
        labels, scores = mine["labels"], [each["probabilities"] for each in (mine, theirs)]
        speakers = [Path(clip).name.split("_nohash_")[0] for clip in mine["ids"]]
        interval = metrics.bootstrap(metrics.error_ratio, labels, *scores, groups=speakers)
        return metrics.error_ratio(labels, *scores), *interval

    def write_metrics(self, setting: str, values: dict) -> None:
        write_json(self.folder / "metrics" / f"{setting}.json", values)

    def metrics(self, setting: str) -> dict:
        return json.loads(self.needed("metrics", setting, "json").read_text())

    def measured(self) -> list[str]:
        """Settings that have a metrics file: the named ones first, in their order."""
        found = {path.stem for path in (self.folder / "metrics").glob("*.json")}
        return [s for s in SETTINGS if s in found] + sorted(found - set(SETTINGS))

    def table(self, settings: list[str]):
        """A pandas frame, a row a setting: au_fa_fr, one_minus_auc and its interval (low, high), errors
        (au_fa_fr over the baseline's; NaN where the baseline made none) and its interval, costs, and
        the rates size, file and speed."""
        import pandas

        rows = {}
        for setting in settings:
            values = self.metrics(setting)
            quality, versus = values["quality"], values["versus_baseline"]
            low, high = quality["interval"]["one_minus_auc"]
            errors_low, errors_high = versus["interval"]["au_fa_fr"] or (np.nan, np.nan)
            errors_high = np.inf if errors_high is None else errors_high
            rows[setting] = {
                "au_fa_fr": quality["au_fa_fr"],
                "one_minus_auc": quality["one_minus_auc"],
                "low": low,
                "high": high,
                "errors": np.nan if versus["au_fa_fr"] is None else versus["au_fa_fr"],
                "errors_low": errors_low,
                "errors_high": errors_high,
                **{key: values["cost"][key] for key in ("parameter_bytes", "file_bytes", "macs_per_clip")},
                "size": versus["parameter_bytes"],
                "file": versus["file_bytes"],
                "speed": versus["macs"],
            }
        return pandas.DataFrame.from_dict(rows, orient="index")

    def needed(self, kind: str, setting: str, suffix: str) -> Path:
        """The path of a file that must be there, or `MissingStageError`."""
        path = self.folder / kind / f"{setting}.{suffix}"
        if not path.is_file():
            raise MissingStageError(
                f"{kind} of {setting} are not in {self.folder}: run the notebook that makes them first, "
                f"with the same parameters (`kws report` runs all in order)"
            )
        return path


def write_json(path: Path, values: dict) -> None:
    write_atomic(path, (json.dumps(values, indent=1) + "\n").encode())


def provenance() -> dict:
    """Versions, device and git commit: what a reader needs to compare runs."""
    versions = {"python": platform.python_version()}
    for package in MEASURED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "device": platform.machine(), "commit": commit()}


def commit(root: Path = Path(__file__).parent.parent) -> str | None:
    """The checkout's commit, with '+' when its code (`kwslib/`, `notebooks/`) is not the commit's: what a
    run writes under `reports/` does not count. None outside a checkout."""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(_git(root, "status", "--porcelain", "--", "kwslib", "notebooks"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
