# `make` builds the environment and runs the main job; `make test` builds it and passes the tests.
#   make SCALE=mini          another scale
#   make PYTHON=python3.12   another Python, 3.11 or 3.12
#   make env VENV=DIR        into another environment, such as an active conda one ($CONDA_PREFIX)
#   make TORCH=cu126         torch for GPUs older than 2018, or for drivers before 580; it is remembered

PYTHON ?= python3
VENV ?= .venv
SCALE ?= smoke
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
# By its path from here: a start script of an environment may name a folder from which the clone was moved away.
PY := "$(BIN)/python"
# Holds the folder of the clone that is installed, and which build of torch, if it is not PyPI's.
INSTALLED := $(VENV)/.tood-installed
TORCH ?= $(shell sed -n 2p "$(INSTALLED)" 2>/dev/null)
WANTED := printf '%s\n%s\n' "$$(pwd)" "$(TORCH)"
MOVED := $(shell test "$$(cat "$(INSTALLED)" 2>/dev/null)" = "$$($(WANTED))" || echo moved)
# Snakemake, matplotlib and pip keep files below the home folder, which cannot be written in some containers.
CACHE := $${XDG_CACHE_HOME:-$$HOME/.cache}
ifeq ($(shell mkdir -p "$(CACHE)" 2>/dev/null && test -w "$(CACHE)" && echo writable),)
export XDG_CACHE_HOME := $(abspath $(VENV))/cache
export MPLCONFIGDIR := $(abspath $(VENV))/cache/matplotlib
endif

.PHONY: all env test test-slow bench lint format doctor report readme site pins clean-env moved
.DEFAULT_GOAL := all

all: $(INSTALLED)
	@$(PY) -m snakemake --cores all --config scale=$(SCALE)

env: $(INSTALLED)

# Three workers for two cores, as a third of a worker's time is waiting; one thread each, as more would wait for each other.
# `loadfile` gives a worker whole files, so that what the tests of a file share is made once; tests/conftest.py puts the long
# ones first.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint
	@$(PYTEST)

test-slow: $(INSTALLED)
	@$(PYTEST) -m slow

# Against others' code: benchmarks/results.json and docs/performance.md
bench: $(INSTALLED)
	@$(PY) -m benchmarks

lint: $(INSTALLED)
	@$(PY) -m ruff check --no-cache
	@$(PY) -m ruff format --check --quiet --no-cache
	@$(PY) -m mypy
	@$(PY) -m snakefmt --check Snakefile workflow
	@git ls-files -z | xargs -0 $(PY) -m codespell_lib
	@$(PY) workflow/lint.py

format: $(INSTALLED)
	@$(PY) -m ruff format
	@$(PY) -m snakefmt Snakefile workflow

doctor: $(INSTALLED)
	@$(PY) -m tood doctor

# Tables and report.html of the study that was called last, from what is there, also while it trains
report: $(INSTALLED)
	@$(PY) -m tood report

# The results in README.md, docs/results.md, mini.md and cells.md, from the files kept under results/
readme: $(INSTALLED)
	@$(PY) -m snakemake --cores 1 readme

# The pages as a site, in the folder `site`. A warning, such as a link that leads nowhere, is an error.
site: $(INSTALLED)
	@"$(BIN)/uv" pip install --quiet --python $(PY) --no-deps --group site
	@$(PY) docs/make_site.py

# Nothing is installed whose hash is not in requirements.txt: uv, by pip, then by uv all else, and what builds those
# packages that come as source, each in an environment of its own without torch. Compiled bytecode more than halves
# the start of each job where Python is told not to write any.
INSTALL := "$(BIN)/uv" pip install --python $(PY)
# uv names each of nearly two hundred packages.
QUIET ?= --quiet
PIN := "$(BIN)/uv" pip compile pyproject.toml --group dev --group build --generate-hashes \
	--no-emit-index-url --no-header --quiet
# Another build of torch comes from torch's own index, which uv knows by its name, with other packages of CUDA. The
# hashes are those that the index gives; all else is as it is pinned.
PINS := requirements.txt
ifneq ($(TORCH),)
PINS := "$(VENV)/requirements.txt"
BACKEND := --torch-backend $(TORCH)
endif
$(INSTALLED): requirements.txt pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) \
		and f"Python {sys.version.split()[0]} will not do, 3.11 or 3.12 will: make PYTHON=python3.12")'
	@test -x $(PY) || $(PYTHON) -m venv "$(VENV)"
	@test -x "$(BIN)/uv" || { sed -n '/^uv==/,/[^\]$$/p' requirements.txt > "$(VENV)/uv.txt" && \
		$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r "$(VENV)/uv.txt"; }
	@test ! -e "$(VENV)/pyvenv.cfg" || grep -q '^relocatable = true' "$(VENV)/pyvenv.cfg" || \
		"$(BIN)/uv" venv --quiet --relocatable --allow-existing --python $(PY) "$(VENV)"
	@test -z "$(TORCH)" || { sed -n '/^cuda-\|^nvidia-\|^triton=/d; s/^\([a-z].*\) \\$$/\1/p' requirements.txt \
		> "$(VENV)/as-pinned.txt" && \
		$(PIN) $(BACKEND) --python $(PY) --constraints "$(VENV)/as-pinned.txt" --output-file $(PINS); }
	@echo "Installing what requirements.txt pins into $(VENV), about 6 GB the first time; 'make env QUIET=' shows how far it is."
	@$(INSTALL) $(QUIET) --compile-bytecode --require-hashes $(BACKEND) \
		--preview-features build-dependency-hashes --require-build-hashes \
		--build-constraints requirements.txt -r $(PINS)
	@$(INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@$(PY) -c 'from tood.commands.checks import environment_problem; import sys; sys.exit(environment_problem())'
	@$(WANTED) > "$@"

# After a change of dependencies in pyproject.toml
pins:
	$(PIN) --universal --python-version 3.11 --output-file requirements.txt

clean-env:
	rm -rf $(VENV)
