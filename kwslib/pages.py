"""HTML of a run: a page a notebook, and the index, which is written from results and pages.

Each page is one file that needs no network. Cells with the tag `answer` come first and `shown` code
is unfolded; outputs of cells with the tag `index` are also shown on the index.
"""

import html
import re
import shlex
from pathlib import Path

from .architecture import SETTINGS
from .files import write_atomic
from .runs import Run

TEMPLATE = Path(__file__).parent / "report_template"
UNBROKEN = re.compile(  # what is left as it is, or a space before a unit
    r"<(script|style|pre|code)\b.*?</\1>|<[^>]*>|"
    r"(?<=\d) (?=(?:%|s|ms|h|dB|kB|MB|Hz|kHz|MACs|bytes|times|clips)(?!\w))|"
    r"(?<=1) (?=[-−] AUC)|(?<=1 [-−]) (?=AUC)",
    re.DOTALL,
)


def write_page(run: Run, stages: list[str], stage: str, notebook) -> None:
    """The page of an executed notebook, one of `stages`: the answer first, the code folded."""
    from nbconvert import HTMLExporter

    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    rest = [cell for cell in notebook.cells if cell not in answers]
    notebook.cells = rest[:1] + answers + rest[1:]
    where = {"extra_template_basedirs": [str(TEMPLATE.parent)], "template_name": TEMPLATE.name}
    exporter = HTMLExporter(**where, filters={"fold": _fold})
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    title = rest[0].source.splitlines()[0].lstrip("# ")
    resources = {"metadata": {"title": title}, "stages": stages, "stage": stage}
    resources["lead"] = 1 + len(answers)
    body, _ = exporter.from_notebook_node(notebook, resources | _frame(run))
    _, _, after = body.partition("<!--contents-->")
    heads = re.findall(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"', after)
    if len(heads) > 4:
        links = "".join(f'<li><a href="#{place}">{text}</a></li>' for place, text in heads)
        contents = f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'
        body = body.replace("<!--contents-->", contents, 1)
    write_atomic(run.folder / f"{stage}.html", _unbroken(body).encode())


def _fold(source: str) -> str:
    """The name of a cell's code: its first line that is no comment and no import."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    code = [line for line in lines if not re.match(r"#|import |from |[()\w, ]+,?\)?$", line)]
    return (code or lines or ["code"])[0]


def _frame(run: Run) -> dict:
    """What every page has: style, and whence its figures come."""
    record = run.read()
    made = [f"{name} {version}" for name, version in record.get("versions", {}).items()]
    code = f"code {record.get('commit') or 'outside a checkout'}"
    corpus = f"corpus {run.parameters.named()['corpus']}, {record.get('corpus_digest', '')[:12]}"
    style = (TEMPLATE / "style.css").read_text(encoding="utf-8")
    return {"style": style, "footing": " · ".join([code, corpus, *made])}


def _unbroken(page: str) -> str:
    """A page whose numbers do not part from their units at the end of a line."""
    return UNBROKEN.sub(lambda found: "\u00a0" if found[0] == " " else found[0], page)


def write_index(run: Run, stages: list[str]) -> Path:
    """index.html: what was found, from the results; questions, answers and figures of the pages."""
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATE)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    given, measured = run.parameters.named(), run.measured()
    streams = [s for s in measured if run.path("streams", s, "json").is_file()]
    paths = {stage: run.folder / f"{stage}.html" for stage in stages}
    pages = {s: path.read_text(encoding="utf-8") for s, path in paths.items() if path.is_file()}
    body = environment.get_template("front.html.j2").render(
        p=run.parameters,
        given=given,
        table=run.table(measured).to_dict("index") if measured else {},
        quality=run.metrics(measured[0])["quality"] if measured else {},
        streams={str(s): run.streams(s) for s in streams},
        controls=[str(s) for s in SETTINGS if s.is_control],
        stages=stages,
        command=shlex.join(
            ["kws", "report", *(f"--{k}={v}" for k, v in given.items() if v is not None)]
        ),
        pages={stage: _extracts(page) for stage, page in pages.items()},
        **_frame(run),
    )
    path = run.folder / "index.html"
    write_atomic(path, _unbroken(body).encode())
    return path


def _extracts(page: str) -> dict:
    """Of a page: its question, its answer as text, and what it marks to be shown on the index."""
    title = re.search(r"(?s)<title>(.*?)</title>", page)
    answers = re.findall(r"(?s)<!--answer-->(.*?)<!--/answer-->", page)
    text = re.sub(r"</?(strong|em|code|span|a|sub|sup)\b[^>]*>", "", " ".join(answers))
    text = " ".join(re.sub(r"(?s)<h2.*?</h2>|<[^>]*>", " ", text).split())
    shown = re.findall(r"(?s)<!--index-->(.*?)<!--/index-->", page)
    question = title[1] if title else ""
    return {"question": html.unescape(question), "answer": html.unescape(text), "shown": shown}
