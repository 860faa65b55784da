"""The notebooks' sources keep the rules, and all seven run in order, as README's own word does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile

from kwslib import metrics, report
from kwslib.architecture import SETTINGS
from kwslib.runs import Parameters, Run

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PARAMETERS = """corpus = "embedded"
keyword = "sheila"
talk = None
profile = "quick"
split = "speaker"
seed = 0
run = None"""
DEFINED = {"95 %", "0.01 %", "87 times"}  # how intervals are told, an axis' end, the study's slip


def tags(cell):
    return cell.metadata.get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_every_stage_is_a_notebook_and_streaming_has_forty_cells_at_most():
    assert [path.stem for path in NOTEBOOKS] == list(report.STAGES)
    assert len(nbformat.read(NOTEBOOKS[1], as_version=4).cells) <= 40


def test_a_source_is_valid_and_holds_no_output(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.source for cell in code if "parameters" in tags(cell)] == [PARAMETERS]


def test_cells_are_short_and_each_has_a_sentence_before_it(notebook):
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 12, cell.source
            assert not re.search(r"^\s*(def|class|%|!)", cell.source, re.MULTILINE), cell.source
            told = before.cell_type == "markdown" or {"answer", "parameters"} & set(tags(before))
            assert told or "about()" in cell.source, cell.source


def test_it_asks_a_question_answers_it_and_ends_with_what_must_hold(notebook):
    assert re.match(r"# \d · .*\?\n", notebook.cells[0].source)
    kinds = [cell.cell_type for cell in notebook.cells if "answer" in tags(cell)]
    assert kinds == ["markdown", "code"]
    assert notebook.cells[-1].source.splitlines()[-1].startswith("assert")


def test_no_result_is_typed_into_prose(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            typed = re.finditer(r"\b\d[\d.,]* (?:%|times|kB|bytes|MACs)", cell.source)
            assert {found[0] for found in typed} <= DEFINED, cell.source


@pytest.fixture(scope="module")
def chain(tiny_corpus, data_root, tmp_path_factory):
    """The finished smoke run of 24 recordings of a word, and of noise for talk: README's three
    commands for an own word."""
    place = tmp_path_factory.mktemp("a long path with spaces " + "x" * 100)
    corpus, talk, generator = place / "my_corpus", place / "my_talk", np.random.default_rng(0)
    shutil.copytree(tiny_corpus / "sheila", corpus / "hello")
    for speaker in "abcde":
        (talk / speaker).mkdir(parents=True)
        noise = generator.normal(0, 0.1, 25 * 16000)
        soundfile.write(talk / speaker / "1.flac", noise, 16000)
    run = str(place / "a run")
    kws("corpus", corpus, "--talk", talk)
    options = {"corpus": corpus, "talk": talk, "keyword": "hello", "split": "utterance", "run": run}
    kws("report", *(f"--{name}={value}" for name, value in options.items()), "--profile=smoke")
    heard = kws("stream", f"{run}/checkpoints/student3-stream.safetensors", talk / "a" / "1.flac")
    assert "in 25.0 s" in heard.stderr
    return place / "a run", Parameters(**{n: str(v) for n, v in options.items()}, profile="smoke")


def kws(*arguments):
    command = [sys.executable, "-m", "kwslib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_the_chain_leaves_what_the_design_promises(chain):
    folder, parameters = chain
    run = Run(parameters)
    assert list(run.read()["stages"]) == list(report.STAGES)
    assert run.measured() == list(SETTINGS)
    for setting in SETTINGS:
        scores, stated = run.scores(setting), run.metrics(setting)["quality"]["missed"][0]
        assert metrics.missed(scores["labels"], scores["probabilities"]) == stated
        assert run.checkpoint(setting).is_file()
        assert not setting.is_stream or run.streams(setting)["false_accepts"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "student3-int8-static" in readme and "the figures mean nothing" in readme


def test_pages_need_no_network_have_texts_for_images_and_little_sound(chain):
    pages = [path.read_text(encoding="utf-8") for path in chain[0].glob("*.html")]
    assert len(pages) == len(NOTEBOOKS) + 1
    loading = r"<(img|script|link|audio|iframe)\b([^>]*)>"
    found = [each for page in pages for each in re.findall(loading, page)]
    assert all(re.search('alt="[^"]+"', values) for tag, values in found if tag == "img")
    assert all(
        re.match("data:", a) for _, v in found for a in re.findall('(?:src|href)="(.*?)"', v)
    )
    assert 0 < sum(len(values) for tag, values in found if tag == "audio") < 4e6  # 3 MB of sound


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium is installed")
def test_a_page_opens_in_a_browser_without_an_error(chain):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--dump-dom", (chain[0] / "02_streaming.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<audio" in done.stdout and "CONSOLE" not in done.stderr
