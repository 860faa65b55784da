"""Which stages run, and when again; their kernel; pages and index. No network is trained."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_runs import write_results

from kwslib import experiment, report, runs, talk, tasks
from kwslib.files import FileError
from kwslib.runs import ParameterError, Parameters, Run

HTML = "from IPython.display import HTML, Markdown\n"


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def write_notebook(folder, stage, *cells):
    first = [new_markdown_cell(f"# What does {stage} find?"), code("", "parameters")]
    notebook = new_notebook(cells=first + list(cells))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "p", "language": "python"}
    nbformat.write(notebook, folder / f"{stage}.ipynb")


@pytest.fixture
def kernel():
    """Asks `chain` for a real kernel; without it, notebooks are not run."""


@pytest.fixture
def chain(tiny_corpus, tmp_path, monkeypatch, request):
    """chain(only, force) runs two stages on a copy of the tiny corpus; returns the lines said."""
    if "kernel" not in request.fixturenames:
        monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: None)
    corpus, notebooks, trained = tmp_path / "a {corpus}", tmp_path / "notebooks", []
    shutil.copytree(tiny_corpus, corpus)
    notebooks.mkdir()
    said = talk.Talk({"espeak": np.zeros(16000, np.int16)}, "digest")
    monkeypatch.setattr(talk, "espeak", lambda *_: said)
    monkeypatch.setattr(tasks, "train_all", lambda _, settings, *more: trained.append(settings))
    monkeypatch.setattr(report, "NOTEBOOKS", notebooks)
    monkeypatch.setattr(report, "STAGES", {"01_baseline": ("baseline",), "07_summary": ()})
    for stage in report.STAGES:
        write_notebook(notebooks, stage, code("print('ran')"))

    def run(only=None, force=False, keyword="sheila"):
        experiment.open_cached.cache_clear()
        parameters, lines = Parameters(str(corpus), keyword, run=str(run.folder)), []
        report.run_chain(parameters, only, force, say=lines.append)
        return lines

    run.trained, run.corpus, run.notebooks = trained, corpus, notebooks
    run.folder = tmp_path / "the run"
    return run


def texts(chain):
    """The first page, its executed notebook, and what the notebook printed."""
    paths = ("01_baseline.html", "notebooks/01_baseline.ipynb")
    page, notebook = ((chain.folder / path).read_text(encoding="utf-8") for path in paths)
    cells = nbformat.reads(notebook, as_version=4).cells
    printed = "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))
    return page, notebook, printed


def test_stages_go_by_name_or_number_in_order_and_each_setting_is_made_by_one():
    assert report.stages_named(None) == list(report.STAGES)
    assert report.stages_named(["7", "01_baseline"]) == ["01_baseline", "07_summary"]
    with pytest.raises(ParameterError, match="01_baseline"):
        report.stages_named(["08"])
    made = [name for settings in report.STAGES.values() for name in settings]
    assert sorted(made) == sorted(str(setting) for setting in runs.SETTINGS)


def test_what_is_up_to_date_is_skipped_and_what_changed_runs_again(chain):
    def ran(*arguments, **more):
        return [line.split("]")[1][1:3] for line in chain(*arguments, **more) if "running" in line]

    assert ran() == ["01", "07"]
    listed = (chain.folder / "clips.txt.gz").read_bytes()
    assert ran() == [] and listed == (chain.folder / "clips.txt.gz").read_bytes()
    assert gzip.decompress(listed).startswith(b"cat/00000000_nohash_0\n")
    assert [list(map(str, settings)) for settings in chain.trained] == [["baseline"], []]
    page = chain.folder / "01_baseline.html"
    page.write_text(page.read_text(encoding="utf-8")[:100], encoding="utf-8")
    assert ran() == ["01"], "a page that is cut off"
    checkpoint = chain.folder / "checkpoints" / "baseline.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"another's")
    assert ran() == ["01"], "a checkpoint that nobody recorded"
    write_notebook(chain.notebooks, "07_summary", code("1 + 1"))
    assert ran() == ["07"], "another notebook"
    assert ran(["1"], force=True) == ["01"] and not checkpoint.exists()


def test_another_corpus_of_the_same_name_is_refused_without_force(chain):
    chain()
    clips = sorted((chain.corpus / "cat").iterdir())
    shutil.copy(clips[1], clips[2])
    with pytest.raises(ParameterError, match=r"a clip changed.*--force"):
        chain()
    with pytest.raises(FileError, match="corpus, talk or recipe changed since 01_b"):
        chain(["7"], force=True)
    assert "[2/2] 07_summary: running" in chain(force=True)
    assert chain() == ["[1/2] 01_baseline: up to date", "[2/2] 07_summary: up to date"]


@pytest.mark.parametrize("content", [b"", b"null", b'{"setting": "baseline", "quality":'])
def test_damaged_results_of_other_stages_are_one_line(chain, content):
    chain()
    metrics = chain.folder / "metrics"
    metrics.mkdir()
    for name in ("notes.json", ".baseline.json.1.unfinished"):
        (metrics / name).write_bytes(b"foreign, or of a killed write")
    chain(["7"])
    assert [path.name for path in metrics.iterdir()] == ["notes.json"]
    (metrics / "baseline.json").write_bytes(content)
    with pytest.raises(FileError, match=r"metrics.baseline\.json") as caught:
        chain(["7"])
    assert "\n" not in str(caught.value)


def test_a_failed_notebook_is_one_line_and_runs_again(kernel, chain):
    write_notebook(chain.notebooks, "01_baseline", code("raise ValueError('no\\nluck')"))
    with pytest.raises(report.StageError, match="01_baseline failed at cell 2: ValueError: no l"):
        chain(["1"])
    write_notebook(chain.notebooks, "01_baseline", code("print('ran')"))
    assert "[1/1] 01_baseline: running" in chain(["1"])


def test_a_kernel_has_settings_of_its_own(kernel, chain, tmp_path, monkeypatch):
    """Not another environment's `python3`, nor a user's threads, styles and start-up files."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "a.py"
    for folder in (spec.parent, startup.parent):
        folder.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "f", "language": "python"}))
    startup.write_text("leaked = True")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 77")
    users = {"JUPYTER_PATH": spec.parents[2], "IPYTHONDIR": startup.parents[2], "LC_ALL": "C"}
    users |= {"MATPLOTLIBRC": tmp_path / "matplotlibrc", "PYTHONSTARTUP": startup}
    for name, value in (users | {"OMP_NUM_THREADS": "7"}).items():
        monkeypatch.setenv(name, str(value))
    look = "import os, sys, matplotlib\nprint(os.path.basename(sys.prefix), "
    look += "os.environ['OMP_NUM_THREADS'], matplotlib.rcParams['lines.linewidth'], "
    write_notebook(chain.notebooks, "01_baseline", code(look + "'leaked' in globals(), 'ü→')"))
    chain(["1"])
    page, _, printed = texts(chain)
    assert printed == f"{Path(sys.prefix).name} 1 1.5 False ü→\n" and "ü→" in page


def test_an_executed_notebook_tells_nothing_of_this_machine(kernel, chain, tmp_path):
    sound = "HTML('<p>hear</p><audio src=\"data:' + 'audio/flac;base64,AA\"></audio>')"
    noise = "import sys; print('no' + 'ise', file=sys.stderr)"
    write_notebook(chain.notebooks, "01_baseline", code("print(corpus, run)"), code(noise),
                   code(HTML + sound))  # fmt: skip
    chain(["1"])
    page, notebook, printed = texts(chain)
    assert printed == "a {corpus} the run\n" and str(tmp_path) not in notebook + page
    assert "papermill" not in notebook and "noise" not in notebook
    assert notebook.count("profile = ") == 1 and "corpus = 'a {corpus}'" in notebook
    assert "<p>hear</p>" in notebook and "data:audio" not in notebook and "data:audio" in page


def test_pages_and_index_can_be_read(kernel, chain):
    """The answer first, contents, links, folds with names; names escaped; no network."""
    name = "<img src=x onerror=alert(1)>"
    answer = HTML + "Markdown('It **works**: 95 % of &lt;b&gt;')"
    cells = [new_markdown_cell(f"## Part {n}") for n in range(6)]
    cells += [code(HTML + "HTML('<p class=\"caption\">seen</p>')", "index"), code(answer, "answer")]
    write_notebook(chain.notebooks, "01_baseline", *cells)
    (chain.corpus / "sheila").rename(chain.corpus / name)
    chain(["1"], keyword=name)
    page, index = texts(chain)[0], (chain.folder / "index.html").read_text(encoding="utf-8")
    for text in (page, index):
        assert "<img" not in text and "&lt;img" in text, "not escaped"
        assert not re.search(r"<[^>]*(?:href|src)=.?(?:http|//)", text), "needs a network"
    assert page.index("<strong>works") < page.index("Part 0"), "the answer comes first"
    assert page.count('<li><a href="#Part-') == 6 and page.count('href="07_summary.html"') == 2
    assert "<summary>from IPython.display import HTML" in page
    assert "What does 01_baseline find?" in index and "works</strong>: 95 % of &lt;b&gt;" in index
    assert '<p class="caption">seen</p>' in index and "No setting is measured yet" in index


def test_the_index_opens_with_what_was_found(tmp_path):
    run = Run(Parameters(run=str(tmp_path / "run"), split="utterance"))
    write_results(run)
    index = report.write_index(run).read_text(encoding="utf-8")
    assert "A network of 5.0 kB" in index and "20 times smaller" in index
    assert "student3-labels" not in index and "Speakers shared" in index
    assert "The clips are too few to tell the two apart" in index


def test_a_killed_report_leaves_no_process_and_no_file(tmp_path):
    """kill -9: the kernel ends too; what lies in the run folder is swept at the next run."""
    pid, temporary = tmp_path / "pid", tmp_path / "temporary"
    temporary.mkdir()
    write_notebook(tmp_path, "07_summary", code(
        f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)"))  # fmt: skip
    program = (
        "import sys, pathlib\nfrom types import SimpleNamespace as S\n"
        "from kwslib import experiment, report\nfrom kwslib.runs import *\n"
        "report.NOTEBOOKS = pathlib.Path(sys.argv[1])\n"
        "known = S(digest='d', ids=np.array(['a/b']))\n"
        "experiment.open_cached = lambda p: S(run=Run(p), corpus=known, check_talk=dict)\n"
        "report.run_chain(Parameters(run=sys.argv[1] + '/run'), ['7'])"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, env=environment, stdout=-3, stderr=-3) as process:
        wait_until(lambda: pid.is_file() and pid.read_text())
        process.kill()
    wait_until(lambda: not (Path("/proc") / pid.read_text()).exists())
    assert not list(temporary.glob("*.json"))


def wait_until(is_so, limit_s=120):
    until = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.1)
