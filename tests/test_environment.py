"""pyproject.toml, requirements.lock and environment.yml name the same packages."""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
STATED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
IMPORT = r"^ *(?:import (\w+)|from (\w+)[\w.]* import )"
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def name(requirement: str) -> str:
    return Requirement(requirement).name.lower().replace("_", "-")


def test_every_stated_package_is_locked_within_its_range():
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", LOCK, flags=re.MULTILINE))
    for stated in STATED:
        assert Requirement(stated).specifier.contains(pinned[name(stated)]), stated


def test_every_locked_package_has_hashes_and_no_address():
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)
    assert [block for block in blocks if block and "--hash=sha256:" not in block] == []
    assert not re.search(r"https?://|file:|--index-url|--find-links", LOCK)


def test_conda_users_get_the_same_ranges():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert re.findall(r"^      - (?!-e)(.+)$", text, flags=re.MULTILINE) == STATED
    assert f"python{PROJECT['requires-python']}" in text


def test_every_dependency_has_its_reason():
    for stated in STATED:
        assert re.search(rf'"{re.escape(stated)}",? +# \w', TEXT), stated


def test_everything_imported_is_stated():
    stated = {name(each) for each in STATED}
    ours = {"kwslib", "test-runs", "conftest"}
    ours |= {"ipython", "pymicro-wakeword"}  # comes with ipykernel; is what a benchmark is against
    folders = [ROOT / name for name in ("kwslib", "tests", "benchmarks")]
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        found = {a or b for a, b in re.findall(IMPORT, path.read_text("utf-8"), re.MULTILINE)}
        packages = {module.lower().replace("_", "-") for module in found - sys.stdlib_module_names}
        assert packages - ours <= stated, path


def test_an_installed_package_brings_what_it_reads():
    patterns = tomllib.loads(TEXT)["tool"]["setuptools"]["package-data"]["kwslib"]
    listed = {path for pattern in patterns for path in (ROOT / "kwslib").glob(pattern)}
    kept = {p for p in (ROOT / "kwslib").rglob("*.*") if p.suffix not in (".py", ".pyc")}
    assert listed == kept
