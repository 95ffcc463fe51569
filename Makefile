# `make` builds the environment and runs the main job; `make test` builds it and passes the tests.
#   make SCALE=mini          another scale
#   make PYTHON=python3.12   another Python, 3.11 or 3.12
#   make env VENV=DIR        into another environment, such as an active conda one ($CONDA_PREFIX)

PYTHON ?= python3
VENV ?= .venv
SCALE ?= smoke
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.tood-installed
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: all env test test-slow bench lint format doctor report readme pins clean-env
.DEFAULT_GOAL := all

all: $(INSTALLED)
	@snakemake --cores all --config scale=$(SCALE)

env: $(INSTALLED)

# One thread per worker: with two each, two workers on two cores wait for each other. `worksteal` gives a worker
# whole modules, so that what the tests of a module share is made once.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal

test: lint
	@$(PYTEST)

test-slow: $(INSTALLED)
	@$(PYTEST) -m slow

# Against others' code: benchmarks/results.json and docs/performance.md
bench: $(INSTALLED)
	@python -m benchmarks

lint: $(INSTALLED)
	@ruff check
	@ruff format --check --quiet
	@mypy
	@snakefmt --check Snakefile workflow
	@git ls-files -z | xargs -0 codespell
	@python workflow/scripts/lint.py

format: $(INSTALLED)
	@ruff format
	@snakefmt Snakefile workflow

doctor: $(INSTALLED)
	@tood doctor

# Tables and report.html of the study that was called last, from what is there, also while it trains
report: $(INSTALLED)
	@tood report

# The results that README.md shows, from what is kept under results/
readme: $(INSTALLED)
	@snakemake --cores 1 readme

# Every version is in requirements.txt. Compiled bytecode more than halves the start of each job where Python is
# told not to write any.
$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) \
		and f"Python {sys.version.split()[0]} will not do, 3.11 or 3.12 will: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"$$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.txt)"
	uv pip install --compile-bytecode --python $(BIN)/python -r requirements.txt
	uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@python -c 'from tood.study.doctor import environment_problem; import sys; sys.exit(environment_problem())'
	@touch $@

# After a change of dependencies in pyproject.toml
pins:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.txt

clean-env:
	rm -rf $(VENV)
