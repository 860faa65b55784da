# Each target makes what it needs. PYTHON names the interpreter that the environment is made from.
PYTHON ?= python3
PY := .venv/bin/python
export PYTHONUTF8 = 1

.PHONY: report test lab lock clean help

report: .venv/installed  ## notebooks at `quick` on the embedded corpus, then the HTML
	$(PY) -m kwslib.cli report

test: .venv/installed  ## lint, then all tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest

lab: .venv/installed  ## JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks

lock: .venv/installed  ## pins anew from pyproject.toml
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --no-emit-index-url --extra dev pyproject.toml -o requirements.lock

clean:  ## the environment and the made corpora; runs stay
	rm -rf .venv data/embedded data/index data/espeak

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## */\1\t/p' Makefile

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check uv
	$(PY) -m uv pip install -q --python $(PY) --compile-bytecode --require-hashes -r requirements.lock
	$(PY) -m uv pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@
