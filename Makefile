# One command is enough on a fresh machine: every target makes the virtual environment it needs, with the versions
# of constraints.txt. `make help` lists the targets.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first Python from 3.11 on that can make a virtual environment; override with: make PYTHON=/path/to/python3 ...
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$p" && break; done)

# Where torch comes from: empty is the usual index. A machine without an NVIDIA GPU saves 2 GB with
#   make demo TORCH_INDEX=<the address of the CPU builds, from PyTorch's installation page>
TORCH_INDEX ?=
INSTALL = $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

# Which tests `make test` runs: those marked cluster need a real Slurm (make test-cluster), those marked slow minutes.
TESTS ?= -m 'not slow and not cluster'
# Which of them `make test-cluster` runs; all by default. For example: CLUSTER_TESTS='-m cluster tests/cluster/test_ranks.py'
CLUSTER_TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check horovod bench jobs build-container test-cluster

help:  ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(VENV)/.installed-demo  ## Run the whole forecast offline on synthetic scenes; ends with the report's path
	$(BIN)/glacierhpc demo

test: $(VENV)/.installed-dev  ## Run the tests
	$(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.installed-dev  ## Check style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

horovod: $(VENV)/.installed-horovod  ## Build Horovod for the torch that is installed, and install it

BENCHMARKS = acquire align forecast gaps patch train memory scaling

bench: $(VENV)/.installed-demo  ## Measure speed and memory, and write the README's table
	for name in $(BENCHMARKS); do $(BIN)/glacierhpc bench $$name --output build/bench/$$name.json || exit 1; done
	$(BIN)/python benchmarks/readme.py

jobs: $(VENV)/.installed-core  ## Write the job scripts in jobs/ again, from their one renderer
	$(BIN)/python -c "from glacierhpc.hpc.slurm import write_jobs; write_jobs('jobs')"

build-container:  ## Build deeplearning.sif with Apptainer or Singularity
	containers/build.sh

test-cluster: $(VENV)/.installed-dev  ## Run the tests that need a cluster, on one made for them (root, Debian 12)
	VENV=$(VENV) containers/testcluster/test.sh $(CLUSTER_TESTS)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "glacierhpc needs Python 3.11 to 3.13 with its venv module (Debian and Ubuntu:" \
		"apt install python3-venv); name one with: make PYTHON=/path/to/python3" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[imagery,learning,mapping]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[imagery,learning,mapping,track,dev]'
	@touch $@

# --no-deps and --no-index: nothing else changes, torch least of all
$(VENV)/.installed-horovod: $(VENV)/.installed-dev containers/horovod/build_wheel.sh
	rm -rf $(VENV)/wheels
	containers/horovod/build_wheel.sh $(BIN)/python $(VENV)/wheels
	$(BIN)/python -m pip install --quiet --no-deps --no-index --force-reinstall $(VENV)/wheels/horovod-*.whl
	$(BIN)/python -c 'import horovod.torch'
	@touch $@
