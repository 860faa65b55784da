"""The chain: trainings, then each notebook in a kernel of its own, its page, the index of pages.

A stage is up to date when its inputs and its results are as they were recorded: corpus, talk,
recipe versions, the notebook's source, the bytes of page and result files. No code is hashed.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import sys
from hashlib import sha256
from itertools import product
from pathlib import Path

import nbformat

from . import data, files
from .architecture import SETTINGS, setting_named
from .runs import ROOT, ParameterError, Parameters, Run, provenance

NOTEBOOKS = ROOT / "notebooks"
TEMPLATE = Path(__file__).parent / "report_template"
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
KERNEL = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
KERNEL |= {"MATPLOTLIBRC": os.devnull, "MPLBACKEND": "agg", "PYTHONSTARTUP": "", "PYTHONUTF8": "1"}
PATIENCE_S = 3600  # until a kernel has started, or an output comes; a cell has no limit


class StageError(RuntimeError):
    """A notebook that failed: which, at which cell, why, and where the executed copy lies."""


def stages_named(only: list[str] | None) -> list[str]:
    """Stages by name or number ('3', '03', '03_distillation_1'), in order; None: all."""
    names = {name: stage for stage in STAGES for name in (stage, stage[:2], stage[1:2])}
    if unknown := sorted(set(only or ()) - names.keys()):
        raise ParameterError(f"no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    chosen = {names[name] for name in only or STAGES}
    return [stage for stage in STAGES if stage in chosen]


def run_chain(parameters: Parameters, only=None, force=False, workers=1, scheduler=None, say=print):
    """Trains and runs what is not up to date, or all with `force`; returns the path of index.html.
    only: as in `stages_named`; workers, scheduler: as in `tasks.train_all`; say: gets each line."""
    chosen = stages_named(only)
    from . import experiment, tasks, training

    if force and parameters.folder.is_dir():
        Run(parameters).write(corpus_digest=None)  # another corpus may take its place
    opened = experiment.open_cached(parameters)
    run, inputs = opened.run, opened.check_talk() | {"corpus": opened.corpus.digest}
    inputs["recipe_versions"] = training.RECIPE_VERSIONS
    with run.locked():
        files.sweep(run.folder)  # every input is looked at before anything trains
        run.write(**provenance())
        names = "\n".join(opened.corpus.ids.tolist()) + "\n"
        files.write_atomic(run.folder / "clips.txt.gz", gzip.compress(names.encode(), mtime=0))
        _check_others(run, chosen, inputs)
        done = run.read()["stages"]
        due = [s for s in chosen if force or done.get(s) != _known(run, s, inputs)]
        for path in [path for stage in due if force for path in _results(run, stage)]:
            path.unlink()
        made = [setting_named(name).float for stage in due for name in STAGES[stage]]
        tasks.train_all(parameters, made, workers, scheduler, say)
        for number, stage in enumerate(chosen, start=1):
            say(f"[{number}/{len(chosen)}] {stage}: {'running' if stage in due else 'up to date'}")
            if stage in due:
                _run_stage(run, stage)
                run.write(stages=run.read()["stages"] | {stage: _known(run, stage, inputs)})
            index = write_index(run)
    return index


def _check_others(run: Run, chosen: list[str], inputs: dict) -> None:
    """An error where stages that are not run have results that are damaged or of other inputs."""
    made = [name for stage in chosen for name in STAGES[stage]]
    for setting in [each for each in run.measured() if str(each) not in made]:
        run.metrics(setting), run.scores(setting)
    for stage, known in run.read()["stages"].items():
        if stage not in chosen and known.get("inputs") != inputs:
            reason = f"corpus, talk or recipe changed since {stage} ran"
            raise files.FileError(f"{reason}: run `kws report` without --only")


def _results(run: Run, stage: str) -> list[Path]:
    """The page and the result files of a stage that are there."""
    made = product(RESULTS.items(), map(setting_named, STAGES[stage]), range(run.parameters.folds))
    paths = [run.path(kind, setting, suffix, fold) for (kind, suffix), setting, fold in made]
    return [path for path in (run.folder / f"{stage}.html", *paths) if path.is_file()]


def _known(run: Run, stage: str, inputs: dict) -> dict:
    """By what a stage is known to be up to date: inputs, and digests of notebook and results."""
    cells = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text(encoding="utf-8"))["cells"]
    notebook, results = sha256(json.dumps([cell["source"] for cell in cells]).encode()), sha256()
    for path in _results(run, stage):
        results.update(path.name.encode() + path.read_bytes())
    return {"inputs": inputs, "notebook": notebook.hexdigest(), "results": results.hexdigest()}


def _run_stage(run: Run, stage: str) -> None:
    """Runs a notebook, writes its page and its executed copy."""
    (run.folder / f"{stage}.html").unlink(missing_ok=True)  # without it a stage is not done
    notebook = _execute(run, stage)
    write_page(run, stage, notebook)
    note = "<em>(to be heard on the HTML page)</em>"  # GitHub would not play sound
    text = re.sub(r"<audio\b.*?</audio>", note, nbformat.writes(notebook))
    files.write_atomic(run.folder / "notebooks" / f"{stage}.ipynb", text.encode())


def _execute(run: Run, stage: str) -> nbformat.NotebookNode:
    """Runs one notebook through papermill; the notebook as a page shows it, or `StageError`."""
    import papermill

    executed, private = run.folder / "notebooks" / f"{stage}.ipynb", run.folder / ".kernel"
    values = run.parameters.named() | {"run": str(run.folder.resolve())}
    names = {values["run"]: run.folder.name, str(ROOT): "."}  # for paths of this machine
    for name in ("corpus", "talk"):
        if values[name] not in (None, *data.NAMES):
            path = str(Path(getattr(run.parameters, name)).expanduser().resolve())
            names, values[name] = {path: values[name]} | names, path
    notebook = nbformat.read(NOTEBOOKS / f"{stage}.ipynb", as_version=4)
    given = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    given.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    files.write_atomic(executed, nbformat.writes(notebook).encode())
    private.mkdir(exist_ok=True)
    place = str(executed).replace("{", "{{").replace("}", "}}")  # papermill formats paths
    try:
        papermill.execute_notebook(
            place, place, kernel_name="python3", kernel_manager_class=_kernel_class(private),
            cwd=NOTEBOOKS, progress_bar={"leave": False, "disable": None}, stderr_file=sys.stderr,
            start_timeout=PATIENCE_S, iopub_timeout=PATIENCE_S,
        )  # fmt: skip
    except Exception as error:  # of a cell, of the kernel, of zmq: each has errors of its own
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, papermill.PapermillExecutionError):
            reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
        reason = f"{stage} failed at {' '.join(reason.split())[:500]}"
        raise StageError(f"{reason}. The notebook as far as it ran: {executed}") from None
    finally:
        shutil.rmtree(private, ignore_errors=True)
    text = executed.read_text(encoding="utf-8")
    for path, name in names.items():
        text = text.replace(json.dumps(path, ensure_ascii=False)[1:-1], name)
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.get("tags", [])})
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def _kernel_class(folder: Path) -> type:
    """Kernels of this interpreter that end with this process; their files lie in `folder`."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    settings = KERNEL | {"IPYTHONDIR": str(folder)}

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=[*argv, "--log-level=ERROR"], language="python", env=settings)
        connection_file = str(folder / "connection.json")

    return Kernel


def write_page(run: Run, stage: str, notebook) -> None:
    """A notebook's page, one file: `answer` cells first, code folded but that of `shown` cells."""
    from nbconvert import HTMLExporter

    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    rest = [cell for cell in notebook.cells if cell not in answers]
    notebook.cells = rest[:1] + answers + rest[1:]
    options = {"extra_template_basedirs": [str(TEMPLATE.parent)], "template_name": TEMPLATE.name}
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, **options)
    title = rest[0].source.splitlines()[0].lstrip("# ")
    values = {"stages": list(STAGES), "stage": stage, "lead": 1 + len(answers)}
    values |= {"footing": _footing(run), "metadata": {"title": title}}
    body, _ = exporter.from_notebook_node(notebook, values)
    before, _, after = body.partition("<!--contents-->")
    heads = re.findall(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"', after)
    links = "".join(f'<li><a href="#{place}">{text}</a></li>' for place, text in heads)
    contents = f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'
    files.write_atomic(run.folder / f"{stage}.html", f"{before}{contents}{after}".encode())


def _footing(run: Run) -> str:
    """Whence the figures of a page come."""
    record = run.read()
    code = f"code {record.get('commit') or 'outside a checkout'}"
    corpus = f"corpus {run.parameters.named()['corpus']}, {record.get('corpus_digest', '')[:12]}"
    return " · ".join([code, corpus, *map(" ".join, record.get("versions", {}).items())])


def write_index(run: Run) -> Path:
    """index.html: what was found, and of each page question, answer and what is tagged `index`."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    given, measured = run.parameters.named(), run.measured()
    listening = [s for s in measured if run.path("streams", s, "json").is_file()]
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    paths = {stage: run.folder / f"{stage}.html" for stage in STAGES}
    pages = {s: path.read_text(encoding="utf-8") for s, path in paths.items() if path.is_file()}
    body = environment.get_template("front.html.j2").render(
        p=run.parameters,
        given=given,
        table=run.table(measured).to_dict("index") if measured else {},
        quality=run.metrics(measured[0])["quality"] if measured else {},
        streams={str(setting): run.streams(setting) for setting in listening},
        controls=[str(s) for s in SETTINGS if s.is_control],
        command=shlex.join(["kws", "report", *options]),
        pages={stage: _extracts(page) for stage, page in pages.items()},
        footing=_footing(run),
    )
    files.write_atomic(run.folder / "index.html", body.encode())
    return run.folder / "index.html"


def _extracts(page: str) -> dict[str, list[str]]:
    """Of a page, in HTML: its question, its answer, and what it marks to be shown on the index."""
    marks = {name: f"<!--{name}-->(.*?)<!--/{name}-->" for name in ("answer", "index")}
    marks["question"] = "<title>(.*?)</title>"
    return {name: re.findall(mark, page, re.DOTALL) for name, mark in marks.items()}
