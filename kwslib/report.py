"""The chain: every notebook in a kernel of its own, its HTML, and an index. It reads files only.

A stage is done when its notebook ran to the end; it is skipped next time unless something that it
depends on has changed: its own source, the code it imports, the parameters, the stages before it.
"""

import ast
import contextlib
import hashlib
import html
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import data, talk
from .checkpoints import write_atomic
from .runs import ParameterError, Parameters, Run

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
STAGES = {  # notebook -> the stages whose files it reads
    "01_baseline": (),
    "02_streaming": ("01_baseline",),
    "03_distillation_1": ("01_baseline",),
    "04_distillation_2": ("01_baseline", "03_distillation_1"),
    "05_distillation_3": ("01_baseline", "03_distillation_1", "04_distillation_2"),
    "06_quantization": ("01_baseline", "04_distillation_2", "05_distillation_3"),
    "07_summary": (
        "01_baseline",
        "03_distillation_1",
        "04_distillation_2",
        "05_distillation_3",
        "06_quantization",
    ),
}
CELL_LIMIT_S = {"smoke": 300, "quick": 1200, "full": 4 * 3600}


class StageError(RuntimeError):
    """A notebook that failed: which, at which cell, why, and where the executed copy lies."""


def stages_named(only: list[str] | None) -> list[str]:
    """Stages by name or number ('3', '03', '03_distillation_1'), in order; None: all."""
    if not only:
        return list(STAGES)
    chosen = set()
    for name in only:
        found = [s for s in STAGES if name == s or (name.isdigit() and int(name) == int(s[:2]))]
        if not found:
            raise ParameterError(f"no stage {name!r}; the stages are {', '.join(STAGES)}")
        chosen |= set(found)
    return [stage for stage in STAGES if stage in chosen]


def run_chain(
    parameters: Parameters,
    only: list[str] | None = None,
    force: bool = False,
    audio: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Runs what is not up to date, writes the HTML; returns index.html. A failing stage raises
    `StageError`; the next call goes on there. force: also what is up to date, trained anew. audio
    False: recordings are taken out of the pages, which may then be given to anyone."""
    chosen = stages_named(only)
    corpus = data.load(parameters.corpus)  # made or indexed here, where its progress can be seen
    data.split(corpus, parameters.keyword, parameters.split, parameters.seed)
    run = Run(parameters)
    with run.locked():
        run.write(corpus_digest=corpus.digest, speech_digest=talk.digest(corpus.root, parameters.keyword))
        try:
            for number, stage in enumerate(chosen, start=1):
                _run_stage(run, stage, force, f"[{number}/{len(chosen)}] {stage}", say)
        finally:
            index = write_index(run)
        if not audio:
            for page in run.folder.glob("*.html"):
                write_atomic(page, without_audio(page.read_text()).encode())
        return index


def without_audio(page: str) -> str:
    """A page with a remark in the place of each recording."""
    return re.sub(
        r'<audio[^>]*src="data:audio/[^"]*"[^>]*></audio>',
        '<span class="left-out">recording left out of this copy</span>',
        page,
    )


def _run_stage(run: Run, stage: str, force: bool, place: str, say: Callable[[str], None]) -> None:
    digest = stage_digest(run, stage)
    if not force and _is_done(run, stage, digest):
        say(f"{place}: up to date")
        return
    say(f"{place}: running")
    if force:
        _forget(run, stage)
    (run.folder / f"{stage}.html").unlink(missing_ok=True)
    begun = time.time()
    record = _execute(run, stage)
    write_page(run, stage)
    made = [path for path in run.folder.rglob("*.*") if path.is_file() and path.stat().st_mtime >= begun]
    kept = {"checkpoints", "figures", "history", "metrics", "scores", "streams"}
    files = [path.relative_to(run.folder).as_posix() for path in made]
    files = sorted(name for name in files if name.split("/")[0] in kept)
    _record(run, stage, {**record, "inputs": digest, "files": files})
    say(f"{place}: done in {record['seconds']:.0f} s, peak memory {record['peak_memory_mb']:.0f} MB")


def stage_digest(run: Run, stage: str) -> str:
    """Digest of all that a stage depends on."""
    inputs = [run.parameters.named(), run.read().get("corpus_digest")]
    if stage.startswith("02"):  # the only one that hears running speech
        inputs.append(run.read().get("speech_digest"))
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    notebook = json.loads((NOTEBOOKS / f"{stage}.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    digest.update(json.dumps(sources).encode())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for module in sorted(_imported("\n".join(code))):
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    recorded = run.read().get("stages", {})
    package = Path(__file__).parent
    for path in sorted([package / "published.json", *(package / "report_template").iterdir()]):
        digest.update(path.read_bytes())
    for earlier in STAGES[stage]:
        digest.update(json.dumps([earlier, recorded.get(earlier, {}).get("inputs")]).encode())
    return digest.hexdigest()


def _imported(source: str) -> set[str]:
    """Modules of kwslib that this source imports, and those that these import."""
    folder, found, waiting = Path(__file__).parent, set(), [source]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop())):
            names = []
            if isinstance(node, ast.ImportFrom):
                module = (node.module or "").removeprefix("kwslib").strip(".")
                if node.level or (node.module or "").startswith("kwslib"):
                    names = [module] if module else [alias.name for alias in node.names]
            for name in names:
                path = folder / f"{name}.py"
                if name not in found and path.is_file():
                    found.add(name)
                    waiting.append(path.read_text())
    return found


def _is_done(run: Run, stage: str, digest: str) -> bool:
    record = run.read().get("stages", {}).get(stage, {})
    files = [f"{stage}.html", *record.get("files", [])]
    is_whole = all((run.folder / name).is_file() for name in files)
    return record.get("state") == "done" and record.get("inputs") == digest and is_whole


def _record(run: Run, stage: str, record: dict) -> None:
    stages = run.read().get("stages", {}) | {stage: record}
    run.write(stages={name: stages[name] for name in STAGES if name in stages})


def _forget(run: Run, stage: str) -> None:
    """Drops the finished training of a stage, so that `force` trains anew. (The second stage trains
    student3 too, if the fifth has not yet.)"""
    trained = {"01": "baseline", "03": "student1", "04": "student2", "05": "student3"}
    for path in (*(run.folder / "resume").glob("*.safetensors"), *(run.folder / "history").glob("*.json")):
        is_stream = path.stem.endswith("-stream")
        if is_stream if stage.startswith("02") else path.stem in _both(trained.get(stage[:2])):
            path.unlink()


def _both(setting: str | None) -> tuple:
    return (setting, f"{setting}-labels")


def _execute(run: Run, stage: str) -> dict:
    """Runs one notebook through papermill; its record, or `StageError`."""
    import papermill

    executed = run.folder / "notebooks" / f"{stage}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    p = run.parameters
    values = {
        "corpus": p.corpus if p.corpus in data.NAMES else str(Path(p.corpus).expanduser().resolve()),
        "keyword": p.keyword,
        "profile": p.profile,
        "split": p.split,
        "seed": p.seed,
        "run": str(run.folder.resolve()),
    }
    begun = time.perf_counter()
    _record(run, stage, {"state": "running"})
    with _peak_memory() as peak:
        try:
            papermill.execute_notebook(
                _unformatted(NOTEBOOKS / f"{stage}.ipynb"),
                _unformatted(executed),
                parameters=values,
                kernel_name="python3",
                cwd=NOTEBOOKS,
                progress_bar={"leave": False, "disable": None},
                stderr_file=sys.stderr,  # a line an epoch while training
                extra_arguments=["--log-level=ERROR"],
                execution_timeout=CELL_LIMIT_S[p.profile],
            )
        except Exception as error:
            record = {"state": "failed", "seconds": round(time.perf_counter() - begun, 1)}
            _record(run, stage, record)
            if isinstance(error, papermill.PapermillExecutionError):
                reason = f"cell {error.exec_count}: {error.ename}: {_one_line(error.evalue)}"
            else:
                reason = f"{type(error).__name__}: {_one_line(str(error))}"
            raise StageError(
                f"{stage} failed at {reason}. The notebook as far as it ran: {executed}"
            ) from None
    return {
        "state": "done",
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_memory_mb": round(peak["bytes"] / 2**20),
    }


def _unformatted(path: Path) -> str:
    """A path that papermill, which formats paths with the parameters, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


@contextlib.contextmanager
def _peak_memory():
    """Highest resident memory of this process's children (the kernel), looked at twice a second."""
    import psutil

    peak, over = {"bytes": 0}, threading.Event()

    def watch():
        while not over.wait(0.5):
            total = 0
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            peak["bytes"] = max(peak["bytes"], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def write_page(run: Run, stage: str) -> Path:
    """The executed notebook as one HTML file: the answer first, code folded, no network."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(run.folder / "notebooks" / f"{stage}.ipynb", as_version=4)
    for cell in notebook.cells:  # where a corpus lay on this machine is nobody's business
        if "injected-parameters" in cell.metadata.get("tags", []):
            for name in ("corpus", "run"):
                cell.source = re.sub(
                    rf'^{name} = ".*/([^/"]+)"', rf'{name} = "\1"', cell.source, flags=re.MULTILINE
                )
    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    rest = [cell for cell in notebook.cells if cell not in answers]
    notebook.cells = rest[:1] + answers + rest[1:]
    exporter = HTMLExporter(
        extra_template_basedirs=[str(Path(__file__).parent)], template_name="report_template"
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    title = rest[0].source.splitlines()[0].lstrip("# ")
    resources = {
        "metadata": {"title": title},
        "style": _style(),
        "navigation": _navigation(stage),
        "footing": _footing(run),
    }
    body, _ = exporter.from_notebook_node(notebook, resources)
    path = run.folder / f"{stage}.html"
    write_atomic(path, body.encode())
    return path


def write_index(run: Run) -> Path:
    """index.html: what was run, on what, the table, the summary chart, links."""
    import pandas

    record, p = run.read(), run.parameters
    rows = []
    for setting in run.measured():
        if setting.endswith("-labels"):
            continue
        values = run.metrics(setting)
        quality, costs, versus = values["quality"], values["cost"], values["versus_baseline"]
        times, (low, high) = versus["au_fa_fr"], quality["interval"]["one_minus_auc"]
        rows.append(
            {
                "setting": setting,
                "au_fa_fr": f"{quality['au_fa_fr']:.2e}",
                "1 - AUC": f"{quality['one_minus_auc']:.2e} [{low:.1e}, {high:.1e}]",
                "errors, times baseline": "baseline made no error" if times is None else f"{times:.2f}",
                "file bytes": f"{costs['file_bytes']:,}",
                "times smaller": f"{versus['file_bytes']:.1f}",
                "MACs a clip": f"{costs['macs_per_clip']:,}",
                "times fewer": f"{versus['macs']:.1f}",
            }
        )
    table = (
        pandas.DataFrame(rows).to_html(index=False, border=0) if rows else "<p>No setting measured yet.</p>"
    )
    chart = run.figure("07_summary", "frontier")
    image = ""
    if chart.is_file():
        from base64 import b64encode

        alt = "1 - AUC of every setting over how many times cheaper and smaller than the baseline it is"
        image = f'<img alt="{alt}" src="data:image/png;base64,{b64encode(chart.read_bytes()).decode()}">'
    stages = "".join(
        f'<tr><td><a href="{stage}.html">{stage}</a></td><td>{html.escape(str(row["state"]))}</td>'
        f"<td>{row.get('seconds', 0):,.0f} s</td><td>{row.get('peak_memory_mb', 0):,} MB</td></tr>"
        for stage, row in record.get("stages", {}).items()
        if (run.folder / f"{stage}.html").is_file()
    )
    described = html.escape(
        f"Corpus {p.named()['corpus']}, keyword “{p.keyword}”, profile {p.profile}, split {p.split}"
        f"{' (speakers shared)' if p.split == 'utterance' else ' (speakers kept apart)'}, seed {p.seed}."
    )
    warning = " ".join(p.caveats())
    body = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Small keyword spotting: {html.escape(p.keyword)}</title><link rel="icon" href="data:,">
<style>{_style()}</style></head><body><nav>{_navigation("")}</nav><main>
<h1>Small keyword spotting: “{html.escape(p.keyword)}”</h1>
<p>{described} A keyword spotter is trained, run on a stream, distilled three times, quantized to
8-bit integers, and compared.</p>{f'<p class="warning">{warning}</p>' if warning else ""}
<h2>Results</h2><div class="rendered_html">{table}</div>
<p>au_fa_fr: area under false rejects over false accepts, both as shares of all clips; it compares
within one corpus only. 1 - AUC compares across corpora; in brackets its 95 % interval over speakers.
Lower is better for both.</p>{image}
<h2>Notebooks</h2><div class="rendered_html"><table><thead><tr><th>notebook</th><th>state</th>
<th>time</th><th>peak memory</th></tr></thead><tbody>{stages}</tbody></table></div>
</main><footer>{_footing(run)}</footer></body></html>
"""
    path = run.folder / "index.html"
    write_atomic(path, body.encode())
    return path


def _style() -> str:
    return (Path(__file__).parent / "report_template" / "style.css").read_text()


def _navigation(current: str) -> str:
    links = ["index", *STAGES]
    names = {link: link.replace("_", " ") for link in links}
    return " ".join(
        f'<a href="{link}.html"{" aria-current=page" if link == (current or "index") else ""}>{names[link]}</a>'
        for link in links
    )


def _footing(run: Run) -> str:
    record = run.read()
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    parts = [
        f"code {record.get('commit') or 'outside a checkout'}",
        f"corpus digest {str(record.get('corpus_digest', ''))[:12]}",
        record.get("compute", ""),
        versions,
    ]
    return html.escape(" · ".join(part for part in parts if part))
