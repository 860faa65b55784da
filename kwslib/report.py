"""The chain: trainings, then each notebook in a kernel of its own, its page, the index of pages.

A stage is up to date when its inputs and its results are as they were recorded: corpus, talk, the
recipe version, the notebook's source, the bytes of page and result files. No code is hashed.
"""

import gzip
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import nbformat

from . import data, files, pages
from .architecture import SETTINGS, setting_named
from .runs import ROOT, ParameterError, Parameters, Run, provenance

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
KERNEL = {"MATPLOTLIBRC": os.devnull, "PYTHONSTARTUP": ""}  # not what a user has set
KERNEL |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
KERNEL |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
KERNEL |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PATIENCE_S = 3600  # until a kernel has started, or an output comes; a cell has no limit


class StageError(RuntimeError):
    """A notebook that failed: which, at which cell, why, and where the executed copy lies."""


def stages_named(only: list[str] | None) -> list[str]:
    """Stages by name or number ('3', '03', '03_distillation_1'), in order; None: all."""
    names = {name: stage for stage in STAGES for name in (stage, stage[:2], stage[1:2])}
    for name in only or ():
        if name not in names:
            raise ParameterError(f"no stage {name!r}; the stages are {', '.join(STAGES)}")
    chosen = {names[name] for name in only or STAGES}
    return [stage for stage in STAGES if stage in chosen]


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

    if force and parameters.folder.is_dir():
        Run(parameters).write(corpus_digest=None)  # another corpus may take its place
    opened = experiment.open_cached(parameters)
    run, inputs = opened.run, opened.check_talk() | {"corpus": opened.corpus.digest}
    inputs["recipe_version"] = training.RECIPE_VERSIONS
    with run.locked():
        files.sweep(run.folder)
        run.write(**provenance())
        names = "\n".join(opened.corpus.ids.tolist()) + "\n"
        files.write_atomic(run.folder / "clips.txt.gz", gzip.compress(names.encode(), mtime=0))
        _check_others(run, chosen, inputs)
        due = [s for s in chosen if force or not _is_done(run, s, inputs)]
        for path in (path for stage in due for path in _results(run, stage)) if force else ():
            path.unlink()
        made = [setting_named(name).float for stage in due for name in STAGES[stage]]
        if made:
            tasks.train_all(parameters, list(dict.fromkeys(made)), workers, scheduler, say)
        for number, stage in enumerate(chosen, start=1):
            place = f"[{number}/{len(chosen)}] {stage}"
            say(f"{place}: {'running' if stage in due else 'up to date'}")
            if stage in due:
                say(f"{place}: done in {_run_stage(run, stage, inputs):.0f} s")
            index = pages.write_index(run, list(STAGES))
    return index


def _check_others(run: Run, chosen: list[str], inputs: dict) -> None:
    """An error where stages that are not run have results that are damaged or of other inputs."""
    made = {name for stage in chosen for name in STAGES[stage]}
    for setting in (setting for setting in run.measured() if str(setting) not in made):
        run.metrics(setting), run.scores(setting)
    for stage, record in run.read()["stages"].items():
        known = record.get("inputs", inputs)
        changed = [name for name in inputs if known.get(name) != inputs[name]]
        if changed and stage not in chosen:
            reason = f"{changed[0]} changed since {stage} ran"
            raise files.FileError(f"{reason}: run `kws report` without --only")


def _results(run: Run, stage: str) -> list[Path]:
    """The page and the result files of a stage that are there."""
    paths = [run.folder / f"{stage}.html"]
    for setting in map(setting_named, STAGES[stage]):
        for kind, suffix in RESULTS.items():
            paths += [run.path(kind, setting, suffix, fold) for fold in range(run.parameters.folds)]
    return [path for path in paths if path.is_file()]


def _known(run: Run, stage: str, inputs: dict) -> dict:
    """By what a stage is known to be up to date: its inputs, and digests of its results."""
    cells = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = json.dumps(["".join(cell["source"]) for cell in cells])
    results = "".join(
        f"{path.name} {sha256(path.read_bytes()).hexdigest()}\n" for path in _results(run, stage)
    )
    inputs = inputs | {"notebook": sha256(source.encode()).hexdigest()[:16]}
    return {"inputs": inputs, "results": sha256(results.encode()).hexdigest()[:16]}


def _is_done(run: Run, stage: str, inputs: dict) -> bool:
    record = run.read()["stages"].get(stage, {})
    return record | {"state": "done"} | _known(run, stage, inputs) == record


def _record(run: Run, stage: str, **record) -> None:
    stages = run.read()["stages"] | {stage: record}
    run.write(stages={name: stages[name] for name in STAGES if name in stages})


def _run_stage(run: Run, stage: str, inputs: dict) -> float:
    """Runs a notebook, writes its page and its executed copy; returns the seconds it took."""
    (run.folder / f"{stage}.html").unlink(missing_ok=True)
    _record(run, stage, state="running")
    begun = time.perf_counter()
    try:
        notebook = _execute(run, stage)
    except StageError:
        _record(run, stage, state="failed")
        raise
    pages.write_page(run, list(STAGES), stage, notebook)
    path = run.folder / "notebooks" / f"{stage}.ipynb"
    files.write_atomic(path, _soundless(notebook).encode())
    seconds = round(time.perf_counter() - begun, 1)
    _record(run, stage, state="done", seconds=seconds, **_known(run, stage, inputs))
    return seconds


def _execute(run: Run, stage: str) -> nbformat.NotebookNode:
    """Runs one notebook through papermill; the notebook as a page shows it, or `StageError`."""
    import papermill

    executed, private = run.folder / "notebooks" / f"{stage}.ipynb", run.folder / ".kernel"
    shutil.rmtree(private, ignore_errors=True)  # of a killed report
    for folder in (executed.parent, private):
        folder.mkdir(parents=True, exist_ok=True)
    values = run.parameters.named()
    names = {str(run.folder.resolve()): run.folder.name, str(ROOT): "."}
    for name in ("corpus", "talk"):
        if values[name] not in (None, *data.NAMES):
            path = str(Path(getattr(run.parameters, name)).expanduser().resolve())
            names, values[name] = {path: values[name]} | names, path
    places = [str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths
              for path in (NOTEBOOKS / f"{stage}.ipynb", executed)]  # fmt: skip
    try:
        papermill.execute_notebook(
            *places, parameters=values | {"run": str(run.folder.resolve())}, kernel_name="python3",
            cwd=NOTEBOOKS, progress_bar={"leave": False, "disable": None}, stderr_file=sys.stderr,
            kernel_manager_class=_kernel_class(private), start_timeout=PATIENCE_S,
            iopub_timeout=PATIENCE_S,
        )  # fmt: skip
        return _cleaned(executed, names)
    except Exception as error:  # of a cell, of the kernel, of zmq: each has errors of its own
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, papermill.PapermillExecutionError):
            reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    finally:
        shutil.rmtree(private, ignore_errors=True)
    reason = " ".join(reason.split())[:500]
    raise StageError(f"{stage} failed at {reason}. The notebook as far as it ran: {executed}")


def _kernel_class(folder: Path) -> type:
    """Kernels of this interpreter, whatever kernels a user has installed. A kernel ends with this
    process; its files lie in `folder`."""
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


def _cleaned(path: Path, names: dict[str, str]) -> nbformat.NotebookNode:
    """An executed notebook without papermill's marks; paths of this machine become names."""
    text = path.read_text(encoding="utf-8")
    for place, name in names.items():
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], name)
    notebook, kept = nbformat.reads(text, as_version=4), []
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:  # the cell before it holds the defaults
            kept[-1].source = cell.source.removeprefix("# Parameters\n")
            continue
        cell.metadata = nbformat.from_dict({"tags": tags})
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
        kept.append(cell)
    notebook.cells = kept
    return notebook


def _soundless(notebook: nbformat.NotebookNode) -> str:
    """The text of a notebook without sound, which GitHub would not play."""
    note = "<em>(to be heard on the HTML page)</em>"
    for output in (each for cell in notebook.cells for each in cell.get("outputs", [])):
        shown = output.get("data", {})
        if "text/html" in shown:
            shown["text/html"] = re.sub(r"(?s)<audio\b.*?</audio>", note, shown["text/html"])
    return nbformat.writes(notebook)
