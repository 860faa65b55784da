"""What the documents say is so: tables are the metric files', links and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kwslib import checkpoints, committed, docs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", ROOT / "reports/README.md"]


def test_tables_are_what_the_metric_files_say():
    rendered = docs.rendered()
    assert set(rendered) == {ROOT / "README.md", ROOT / "reports/README.md"}
    for path, text in rendered.items():
        assert path.read_text() == text, "run `make docs`"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["equality", "long-run"])
def test_benchmarks_are_of_the_released_networks(name):
    found = committed.benchmark(name)
    rows = found["rows"] if isinstance(found, dict) else found
    folder = ROOT / "reports/speech-commands-happy/checkpoints"
    for row in rows:
        path = folder / f"{row['network']}.safetensors"
        assert row["weights"] == checkpoints.digest(path), (
            f"run benchmarks of {name} again: {path.stem} is another"
        )
    if name == "equality":
        there = {path.stem for path in folder.glob("*.safetensors") if "-again-" not in path.stem}
        assert {row["network"] for row in rows} == there


def test_committed_pages_hold_no_recording():
    pages = list((ROOT / "reports/speech-commands-happy").glob("*.html"))
    assert len(pages) == 8
    for page in pages:
        assert "data:audio" not in page.read_text(), f"{page.name}: make it with `kws report --no-audio`"


def test_every_named_command_exists():
    shown = subprocess.run([sys.executable, "-m", "kwslib.cli", "--help"], capture_output=True, text=True)
    for verb in set(
        re.findall(r"kws (report|corpus|evaluate|cost|stream|\w+)\b", (ROOT / "README.md").read_text())
    ):
        assert f" {verb} " in shown.stdout, verb


def test_the_example_in_python_runs():
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")  # a second of silence: no detection


def test_every_make_target_named_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = "".join(path.read_text() for path in PAGES)
    assert set(re.findall(r"`make (\w+)`", text)) <= set(targets)


def test_modules_are_listed_and_import_one_way():
    """README's list names every module, and none imports one that stands after it."""
    listed = re.search(r"in this order:\n(.*?)\ndata/", (ROOT / "README.md").read_text(), re.DOTALL)[
        1
    ].split()
    modules = {path.stem for path in (ROOT / "kwslib").glob("*.py")} - {"__init__"}
    assert set(listed) == modules and len(listed) == len(modules)
    for place, module in enumerate(listed):
        source = (ROOT / "kwslib" / f"{module}.py").read_text()
        names = re.findall(r"^\s*from \. import (.+)$", source, re.MULTILINE)
        used = {name.split(" as ")[0].strip() for line in names for name in line.split(",")}
        used |= set(re.findall(r"^\s*from \.(\w+) import", source, re.MULTILINE))
        assert used <= set(listed[:place]), f"{module} imports {used - set(listed[:place])}"


def test_no_audio_files_and_no_machine_paths_are_committed():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split(
        "\0"
    )
    assert not [name for name in files if name.lower().endswith((".wav", ".flac", ".mp3", ".ogg"))]
    for name in filter(None, files):
        path = ROOT / name
        if path.suffix in (".json", ".html", ".csv", ".md", ".ipynb", ".lock", ".yml", ".toml", ".py"):
            text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text(errors="replace"))
            assert not re.search(r"/(home|root|Users|work)/\w", text), name


def test_importing_the_package_imports_no_torch():
    light = (
        "metrics, architecture, checkpoints, data, runs, events, streaming, inputs, published, report, cli"
    )
    program = f"import sys; from kwslib import {light}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
