"""Every notebook runs through papermill at smoke size, in order, and its page can be read.

One chain is run for the whole file; the tests look at what it left.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest

from kwslib import metrics, report, runs

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def kws(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kwslib.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose path is long and has spaces, with a small synthesised corpus in it."""
    from kwslib import synth

    folder = tmp_path_factory.mktemp("a long path with spaces " + "x" * 120)
    corpus = folder / "small corpus"
    corpus.mkdir()
    synth.make(corpus, speakers=40, seed=0, progress=False)
    return folder


@pytest.fixture(scope="module")
def chain(place):
    """The finished smoke run: its folder, and the arguments that made it."""
    arguments = ["report", "--corpus", place / "small corpus", "--profile", "smoke", "--run", place / "a run"]
    done = kws(*arguments, KWS_DATA=str(place / "data"))
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "a run", arguments


def test_every_stage_is_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == list(report.STAGES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sources_are_clean(path):
    """No outputs, a named kernel, the parameters cell, no helper functions, half a screen a cell."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    values = {}
    exec(parameters[0].source, values)
    assert {k: values[k] for k in ("corpus", "keyword", "profile", "split", "seed", "run")} == {
        "corpus": "embedded",
        "keyword": "sheila",
        "profile": "quick",
        "split": "speaker",
        "seed": 0,
        "run": None,
    }
    for cell in code:
        assert not re.search(r"^\s*(def|class|%|!)", cell.source, re.MULTILINE), cell.source
        imports = [n for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom)]
        of_imports = sum(n.end_lineno - n.lineno + 1 for n in imports)  # a name a line, as they are formatted
        assert len(cell.source.splitlines()) - of_imports <= 20, cell.source


def test_the_chain_leaves_what_the_design_promises(chain):
    folder, _ = chain
    run = json.loads((folder / "run.json").read_text())
    assert [row["state"] for row in run["stages"].values()] == ["done"] * len(report.STAGES)
    assert all(row["seconds"] > 0 and row["peak_memory_mb"] > 50 for row in run["stages"].values())
    for setting in runs.SETTINGS:
        assert (folder / "checkpoints" / f"{setting}.safetensors").is_file()
        values = json.loads((folder / "metrics" / f"{setting}.json").read_text())
        assert values["schema"] == 1 and values["setting"] == setting
        assert values["provenance"]["profile"] == "smoke"
    assert {p.stem for p in (folder / "history").glob("*.csv")} >= {"baseline", "student3", "student3-labels"}
    assert not list(folder.rglob(".*.safetensors*")), "a half-written file is left"
    assert str(folder.parent) not in (folder / "run.json").read_text()


@pytest.mark.parametrize("setting", runs.SETTINGS)
def test_stated_quality_can_be_recomputed_from_the_scores(chain, setting):
    folder, _ = chain
    with np.load(folder / "scores" / f"{setting}.npz") as scores:
        again = metrics.au_fa_fr(scores["labels"], scores["probabilities"])
    assert again == json.loads((folder / "metrics" / f"{setting}.json").read_text())["quality"]["au_fa_fr"]


def test_unchanged_stages_are_skipped(chain):
    _, arguments = chain
    again = kws(*arguments, KWS_DATA=str(arguments[2].parent / "data"))
    assert again.returncode == 0
    assert again.stdout.count("up to date") == len(report.STAGES)


def test_another_run_is_not_written_over(chain):
    folder, arguments = chain
    other = kws(*arguments, "--seed", 7, KWS_DATA=str(folder.parent / "data"))
    assert other.returncode == 2 and "holds another run" in other.stderr
    assert other.stderr.count("\n") == 1


def test_plain_papermill_works_where_its_stage_has_run(chain, tmp_path):
    folder, _ = chain
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / "07_summary.ipynb"), "out.ipynb"]
    for name, value in (("corpus", folder.parent / "small corpus"), ("profile", "smoke"), ("run", folder)):
        command += ["-p", name, str(value)]
    environment = {**os.environ, "KWS_DATA": str(folder.parent / "data")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.ipynb").is_file()


def test_a_failing_stage_says_which_cell_and_the_next_run_resumes_there(chain, tmp_path):
    """A checkpoint that cannot be read: 02 fails, 01 stays done, and once mended 02 goes on."""
    folder, arguments = chain
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "02_streaming.html").unlink()
    checkpoint = copy / "checkpoints" / "baseline.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:100])
    again = [
        "report",
        "--corpus",
        arguments[2],
        "--profile",
        "smoke",
        "--run",
        copy,
        "--only",
        1,
        "--only",
        2,
    ]
    data = {"KWS_DATA": str(folder.parent / "data")}
    failed = kws(*again, **data)
    assert failed.returncode == 1
    assert "02_streaming failed at cell" in failed.stderr and "CheckpointError" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (copy / "notebooks" / "02_streaming.ipynb").is_file()
    assert json.loads((copy / "run.json").read_text())["stages"]["02_streaming"]["state"] == "failed"
    checkpoint.write_bytes(whole)
    mended = kws(*again, **data)
    assert mended.returncode == 0
    assert "01_baseline: up to date" in mended.stdout and "02_streaming: running" in mended.stdout


class Page(HTMLParser):
    """Images without alternative text, and addresses that a page would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.bare, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img" and not values.get("alt"):
            self.bare.append(values.get("src", "")[:40])
        if tag in ("img", "script", "link", "audio", "iframe"):
            address = values.get("src") or (values.get("href") if tag == "link" else None) or "data:"
            if not address.startswith("data:"):
                self.fetched.append(address)


@pytest.mark.parametrize("name", [*report.STAGES, "index"])
def test_pages_need_no_network_and_every_image_has_alternative_text(chain, name):
    page = Page((chain[0] / f"{name}.html").read_text())
    assert page.bare == [] and page.fetched == []


def test_the_answer_comes_first_and_code_is_folded(chain):
    text = (chain[0] / "01_baseline.html").read_text()
    assert text.index("celltag_answer") < text.index("1.1 The clips")
    assert "<details" in text and "<details open" not in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("name", ["index", "02_streaming"])
def test_pages_open_in_a_browser_without_an_error(chain, tmp_path, name):
    """A copy of the page counts its loaded images and errors, and writes both into its title."""
    probe = """<script>
    window.errors = []; window.onerror = message => errors.push(message);
    window.addEventListener("load", () => { const images = [...document.images];
      document.title = "loaded " + images.filter(i => i.complete && i.naturalWidth > 0).length + " of " +
      images.length + ", errors " + errors.length; });</script>"""
    page = tmp_path / "page.html"
    page.write_text((chain[0] / f"{name}.html").read_text().replace("<head>", "<head>" + probe, 1))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=8000"]
    shown = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    loaded = re.search(r"<title>loaded (\d+) of (\d+), errors (\d+)", shown.stdout)
    assert loaded, shown.stdout[:300] + shown.stderr[-500:]
    assert loaded[1] == loaded[2] != "0" and loaded[3] == "0"
