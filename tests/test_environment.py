"""pyproject.toml, requirements.lock and environment.yml name the same packages."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STATED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
LOCK = (ROOT / "requirements.lock").read_text()


def name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def pinned() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", LOCK, flags=re.MULTILINE))


def test_every_stated_package_is_locked_within_its_range():
    from packaging.requirements import Requirement

    for stated in STATED:
        requirement = Requirement(stated)
        assert requirement.specifier.contains(pinned()[name(stated)]), stated


def test_every_locked_package_has_hashes():
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)
    unhashed = [block.split()[0] for block in blocks if block.strip() and "--hash=sha256:" not in block]
    assert unhashed == []


def test_lock_names_no_index():
    assert not re.search(r"https?://|file:|--index-url|--find-links", LOCK)


def test_conda_users_get_the_same_ranges():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^      - (?!-e)(.+)$", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(STATED)
    assert f"python{PROJECT['requires-python']}" in text


def test_every_dependency_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for stated in STATED:
        line = next(line for line in lines if f'"{stated}"' in line)
        assert re.search(r"#\s+\S+", line), line


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"kwslib", "conftest", "recipes"}  # ours


def test_everything_imported_is_stated():
    stated = {name(each) for each in STATED + PROJECT["optional-dependencies"]["microphone"]}
    for folder in ("kwslib", "tests", "benchmarks"):
        for path in (ROOT / folder).glob("*.py"):
            packages = {module.lower().replace("_", "-") for module in imported(path)}
            assert packages - {"ipython"} <= stated, path  # IPython comes with ipykernel
