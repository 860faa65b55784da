"""HTML of a run: a page a notebook, and the index, which is written from results and pages.

Each page is one file that needs no network. Cells with the tag `answer` come first and `shown` code
is unfolded; outputs of cells with the tag `index` are also shown on the index.
"""

import re
import shlex
from pathlib import Path

from .architecture import SETTINGS
from .files import write_atomic
from .runs import Run

TEMPLATE = Path(__file__).parent / "report_template"


def write_page(run: Run, stages: list[str], stage: str, notebook) -> None:
    """The page of an executed notebook, one of `stages`: the answer first, the code folded."""
    from nbconvert import HTMLExporter

    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    rest = [cell for cell in notebook.cells if cell not in answers]
    notebook.cells = rest[:1] + answers + rest[1:]
    options = {"extra_template_basedirs": [str(TEMPLATE.parent)], "template_name": TEMPLATE.name}
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, **options)
    values = {"stages": stages, "stage": stage, "lead": 1 + len(answers), "footing": _footing(run)}
    values["metadata"] = {"title": rest[0].source.splitlines()[0].lstrip("# ")}
    body, _ = exporter.from_notebook_node(notebook, values)
    before, _, after = body.partition("<!--contents-->")
    heads = re.findall(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"', after)
    links = "".join(f'<li><a href="#{place}">{text}</a></li>' for place, text in heads)
    contents = f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'
    write_atomic(run.folder / f"{stage}.html", f"{before}{contents}{after}".encode())


def _footing(run: Run) -> str:
    """Whence the figures of a page come."""
    record = run.read()
    code = f"code {record.get('commit') or 'outside a checkout'}"
    corpus = f"corpus {run.parameters.named()['corpus']}, {record.get('corpus_digest', '')[:12]}"
    return " · ".join([code, corpus, *map(" ".join, record.get("versions", {}).items())])


def write_index(run: Run, stages: list[str]) -> Path:
    """index.html: what was found, from the results; questions, answers and figures of the pages."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    given, measured = run.parameters.named(), run.measured()
    listening = [s for s in measured if run.path("streams", s, "json").is_file()]
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    paths = {stage: run.folder / f"{stage}.html" for stage in stages}
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
    write_atomic(run.folder / "index.html", body.encode())
    return run.folder / "index.html"


def _extracts(page: str) -> dict[str, list[str]]:
    """Of a page, in HTML: its question, its answer, and what it marks to be shown on the index."""
    marks = {name: f"<!--{name}-->(.*?)<!--/{name}-->" for name in ("answer", "index")}
    marks["question"] = "<title>(.*?)</title>"
    return {name: re.findall(mark, page, re.DOTALL) for name, mark in marks.items()}
