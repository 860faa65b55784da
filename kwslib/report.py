"""The chain: trainings, then each notebook in a kernel of its own, its page, the index of pages.

A stage is up to date when its inputs and its results are as they were recorded: the parameters, the
corpus, the talk, the recipe version, the notebook's source, and the bytes of page and result files.
No code of the library is hashed.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from . import data, pages
from .architecture import SETTINGS, setting_named
from .files import FileError, write_atomic
from .runs import ParameterError, Parameters, Run

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
STAGES = {  # notebook -> the settings that it makes
    "01_baseline": ("baseline",),
    "02_streaming": ("baseline-stream", "student3-stream"),
    "03_distillation_1": ("student1", "student1-labels"),
    "04_distillation_2": ("student2", "student2-labels"),
    "05_distillation_3": ("student3", "student3-labels"),
    "06_quantization": tuple(str(setting) for setting in SETTINGS if setting.int8),
    "07_summary": (),
}
RESULTS = {"checkpoints": "safetensors", "history": "csv", "scores": "npz", "metrics": "json"}
RESULTS |= {"streams": "json", "resume": "safetensors"}
KERNEL = {  # what a user's shell, IPython and Matplotlib are set to reaches no result
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "MATPLOTLIBRC": os.devnull,
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONSTARTUP": "",
    "PYTHONUTF8": "1",
    "PYTHONIOENCODING": "utf-8",
}
PATIENCE_S = 3600  # until a kernel has started, or an output comes; a cell has no limit


class StageError(RuntimeError):
    """A notebook that failed: which, at which cell, why, and where the executed copy lies."""


def stages_named(only: list[str] | None) -> list[str]:
    """Stages by name or number ('3', '03', '03_distillation_1'), in order; None: all."""
    chosen = set()
    for name in only or STAGES:
        found = [s for s in STAGES if name == s or (name.isdecimal() and int(name) == int(s[:2]))]
        if not found:
            raise ParameterError(f"no stage {name!r}; the stages are {', '.join(STAGES)}")
        chosen.update(found)
    return [stage for stage in STAGES if stage in chosen]


def clip_names(path: Path) -> set[str]:
    """Names of clips WORD/SPEAKER_nohash_N, one a line, plain or packed by gzip."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        names = {Path(line.strip()) for line in content.decode("utf-8-sig").splitlines()}
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FileError(f"{path} cannot be read as a list of clips ({error})") from None
    names = {name.with_suffix("").as_posix() for name in names if name.name}
    if not names or any(name.count("/") != 1 for name in names):
        raise FileError(f"{path} is no list of clips: WORD/SPEAKER_nohash_N, one a line")
    return names


def run_chain(
    parameters: Parameters,
    only: list[str] | None = None,
    force: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains and runs what is not up to date, writes the pages; returns the path of index.html.

    only: stages by name or number, None for all; force: train and run anew what is up to date;
    workers, scheduler: of the trainings, as in `tasks.train_all`. Every input is looked at before
    anything trains. A notebook that fails is a `StageError`; the next call goes on there.
    """
    chosen = stages_named(only)
    from . import experiment, tasks, training

    opened = experiment.open_cached(parameters)
    run, talks = opened.run, {"talk": opened.talk, "speech": opened.speech}
    inputs = {"recipe_version": training.RECIPE_VERSION, "corpus": opened.corpus.digest}
    inputs |= {name: found.digest for name, found in talks.items() if found}
    with run.locked():
        names = "\n".join(opened.corpus.ids.tolist()) + "\n"
        write_atomic(run.folder / "clips.txt.gz", gzip.compress(names.encode(), mtime=0))
        _check_others(run, chosen, inputs)
        due = [s for s in chosen if force or not _is_done(run, s, inputs)]
        for path in (path for s in due for path in _files(run, s)) if force else ():
            path.unlink()
        made = [setting_named(name) for stage in due for name in STAGES[stage]]
        if made:
            floats = list(dict.fromkeys(setting.float for setting in made))
            tasks.train_all(parameters, floats, workers, scheduler, say)
        for number, stage in enumerate(chosen, start=1):
            place = f"[{number}/{len(chosen)}] {stage}"
            if stage in due:
                say(f"{place}: running")
                _run_stage(run, stage, inputs)
                say(f"{place}: done in {run.read()['stages'][stage]['seconds']:.0f} s")
            else:
                say(f"{place}: up to date")
            index = pages.write_index(run, list(STAGES))
        return index


def _check_others(run: Run, chosen: list[str], inputs: dict) -> None:
    """An error where stages that are not run have results that are damaged or of other inputs."""
    for stage, record in run.read().get("stages", {}).items():
        if stage in chosen or record.get("state") != "done":
            continue
        changed = [name for name in inputs if record["inputs"].get(name) != inputs[name]]
        if changed:
            raise FileError(
                f"{changed[0]} changed since {stage} ran: run `kws report` without --only"
            )
        for setting in map(setting_named, STAGES[stage]):
            if setting in run.measured():
                run.metrics(setting), run.scores(setting)


def _is_done(run: Run, stage: str, inputs: dict) -> bool:
    record = run.read().get("stages", {}).get(stage, {})
    known = {"inputs": _inputs(stage, inputs), "results": _results(run, stage)}
    has_page = (run.folder / f"{stage}.html").is_file()
    return has_page and {**record, "state": "done", **known} == record


def _inputs(stage: str, inputs: dict) -> dict:
    """What a stage depends on: the common inputs, and the source of its notebook."""
    cells = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = json.dumps(["".join(cell["source"]) for cell in cells])
    return inputs | {"notebook": hashlib.sha256(source.encode()).hexdigest()[:16]}


def _files(run: Run, stage: str) -> list[Path]:
    """The page and the result files of a stage that are there."""
    folds = range(run.parameters.folds)
    kinds = [(kind, suffix, fold) for kind, suffix in RESULTS.items() for fold in folds]
    settings = [setting_named(name) for name in STAGES[stage]]
    paths = {run.path(kind, s, suffix, fold) for s in settings for kind, suffix, fold in kinds}
    return sorted(path for path in paths | {run.folder / f"{stage}.html"} if path.is_file())


def _results(run: Run, stage: str) -> str:
    digest = hashlib.sha256()
    for path in _files(run, stage):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _record(run: Run, stage: str, **record) -> None:
    stages = run.read().get("stages", {}) | {stage: record}
    run.write(stages={name: stages[name] for name in STAGES if name in stages})


def _run_stage(run: Run, stage: str, inputs: dict) -> None:
    (run.folder / f"{stage}.html").unlink(missing_ok=True)
    _record(run, stage, state="running")
    begun = time.perf_counter()
    try:
        notebook = _execute(run, stage)
    except StageError:
        _record(run, stage, state="failed", seconds=round(time.perf_counter() - begun, 1))
        raise
    pages.write_page(run, list(STAGES), stage, notebook)
    write_atomic(run.folder / "notebooks" / f"{stage}.ipynb", _soundless(notebook).encode())
    known = {"inputs": _inputs(stage, inputs), "results": _results(run, stage)}
    _record(run, stage, state="done", seconds=round(time.perf_counter() - begun, 1), **known)


def _execute(run: Run, stage: str):
    """Runs one notebook through papermill; the notebook as a page shows it, or `StageError`."""
    import papermill

    executed, private = run.folder / "notebooks" / f"{stage}.ipynb", run.folder / ".kernel"
    shutil.rmtree(private, ignore_errors=True)  # of a killed report
    for folder in (executed.parent, private):
        folder.mkdir(parents=True, exist_ok=True)
    p, values = run.parameters, run.parameters.named()
    names = {str(run.folder.resolve()): run.folder.name, str(ROOT): "."}
    for name in ("corpus", "talk"):
        if values[name] not in (None, *data.NAMES):
            path = str(Path(getattr(p, name)).expanduser().resolve())
            names, values[name] = {path: values[name], **names}, path
    try:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths
              for path in (NOTEBOOKS / f"{stage}.ipynb", executed)),
            parameters=values | {"run": str(run.folder.resolve())}, kernel_name="python3",
            cwd=NOTEBOOKS, progress_bar={"leave": False, "disable": None}, stderr_file=sys.stderr,
            kernel_manager_class=_kernel_class(private), start_timeout=PATIENCE_S,
            iopub_timeout=PATIENCE_S,
        )  # fmt: skip
        return _cleaned(executed, names)
    except papermill.PapermillExecutionError as error:
        reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except Exception as error:  # of the kernel, of zmq: each library has errors of its own
        reason = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(private, ignore_errors=True)
    reason = " ".join(reason.split())[:500]
    raise StageError(f"{stage} failed at {reason}. The notebook as far as it ran: {executed}")


def _kernel_class(folder: Path):
    """A class of kernels: this interpreter, whatever kernels a user has installed. A kernel ends
    with this process; its files lie in `folder`."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command += ["--HistoryManager.enabled=False", "--log-level=ERROR"]
    environment = KERNEL | {"IPYTHONDIR": str(folder)}

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=command, language="python", env=environment)

        def __init__(self, **more):
            super().__init__(connection_file=str(folder / "connection.json"), **more)

    return Kernel


def _cleaned(path: Path, names: dict[str, str]):
    """An executed notebook without papermill's marks; paths of this machine become names."""
    import nbformat

    text = path.read_text(encoding="utf-8")
    for place, name in names.items():
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], name)
    notebook = nbformat.reads(text, as_version=4)
    tags = {id(cell): cell.metadata.get("tags", []) for cell in notebook.cells}
    given = [cell for cell in notebook.cells if "injected-parameters" in tags[id(cell)]]
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": tags[id(cell)]} if tags[id(cell)] else {})
        if "parameters" in tags[id(cell)] and given:
            cell.source = given[0].source.removeprefix("# Parameters\n")
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.cells = [cell for cell in notebook.cells if cell not in given]
    return notebook


def _soundless(notebook) -> str:
    """The text of a notebook without sound, which GitHub would not play."""
    import nbformat

    for output in (each for cell in notebook.cells for each in cell.get("outputs", [])):
        shown = output.get("data", {})
        if "text/html" in shown:
            note = "<em>(to be heard on the HTML page)</em>"
            shown["text/html"] = re.sub(r"(?s)<audio\b.*?</audio>", note, shown["text/html"])
    return nbformat.writes(notebook)
