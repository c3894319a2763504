# What people do with this project. A fresh machine needs Python 3.11 or newer, git and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file of tests at a time to one more than there are cores, for tests wait for servers much of their time; at most 4.
# `SIDE_BY_SIDE=` runs one after the other.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores < 3 ? cores + 1 : 4)))
SIDE_BY_SIDE ?= --numprocesses=$(WORKERS) --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo demo-stop locality fleet fleet-stop check test test-faults bench simulate docs servers schema clean

help:
	@echo "make demo       a whole federation on this machine: ask, compare, accept, run, fetch (KEEP=1 leaves it up)"
	@echo "make demo SITES=slurm,containers,wes  one program on platforms of every kind (wants make servers)"
	@echo "make demo-stop  stop what KEEP=1 left"
	@echo "make locality   work that goes to its data, by a real Rucio, DaCHS and S3 (wants make servers)"
	@echo "make fleet      replicas of one broker on one Redis, killed and restarted (KEEP=1 leaves it up; wants make servers)"
	@echo "make fleet-stop stop what KEEP=1 left"
	@echo "make check      style, types, imports, generated files"
	@echo "make test       all tests but those marked faults (PYTEST_ARGS=... for some)"
	@echo "make test-faults  all tests of faults, the long ones too, within 25 minutes (HISTORIES=n simulated histories)"
	@echo "make bench      the broker beside bare calls to the same sites"
	@echo "make simulate   rules of placement on simulated federations, into docs/locality.md (some ten minutes)"
	@echo "make docs       the documents as a site, in build/site"
	@echo "make servers    the servers that tests use: the system's packages, and $(VENV)/servers"
	@echo "make schema     write config/settings.schema.json and the tables of docs/ anew"
	@echo "make install    the environment in $(VENV) alone"
	@echo "make clean      remove what was generated, the environment too"
	@echo "PYTHON=python3.12 names another interpreter for the environment."

# Each stamp is as old as the project's dependencies were when they were installed.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runs: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.develops: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/.runs $@

install: $(VENV)/.develops

demo: $(VENV)/.runs
	@SITES='$(SITES)' $(BIN)/python deploy/$(if $(SITES),platforms/platforms.py,demo/demo.py) $(if $(filter-out 0,$(KEEP)),--keep)

demo-stop: $(VENV)/.runs
	@$(BIN)/python deploy/demo/demo.py --stop

locality: $(VENV)/.runs
	@$(BIN)/python deploy/locality/locality.py

fleet: $(VENV)/.runs
	@$(BIN)/python deploy/fleet/fleet.py $(if $(filter-out 0,$(KEEP)),--keep)

fleet-stop: $(VENV)/.runs
	@$(BIN)/python deploy/fleet/fleet.py --stop

check: $(VENV)/.develops
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p broker -p adapters
	$(BIN)/mypy deploy/demo/demo.py deploy/demo/sky.py
	MYPYPATH=deploy/demo $(BIN)/mypy deploy/fleet/fleet.py
	MYPYPATH=deploy/demo $(BIN)/mypy deploy/locality/locality.py
	MYPYPATH=deploy/demo $(BIN)/mypy deploy/platforms/platforms.py
	$(BIN)/lint-imports
	$(BIN)/mypy config/schema.py docs/generate.py
	MYPYPATH=docs/examples/adapter $(BIN)/mypy docs/examples/adapter/shelf docs/examples/adapter/test_shelf.py
	$(BIN)/python config/schema.py --check
	$(BIN)/python docs/generate.py --check

test: $(VENV)/.develops servers
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

# `make test` leaves out what is marked `faults` (addopts in pyproject.toml); this leaves out nothing of these.
test-faults: $(VENV)/.develops servers
	FAULTS=1 HISTORIES=$(or $(HISTORIES),20000) $(BIN)/python -m pytest -m "faults or not faults" \
		tests/simulation tests/faults tests/store tests/services/test_keys_model.py tests/system/test_fleet.py \
		$(SIDE_BY_SIDE) $(PYTEST_ARGS)
	FAULTS=1 $(BIN)/python -m pytest -m faults tests/adapters $(SIDE_BY_SIDE) $(PYTEST_ARGS)

bench: $(VENV)/.develops
	$(BIN)/python tests/benchmarks/bench.py $(BENCH_ARGS)

simulate: $(VENV)/.develops
	$(BIN)/python -m tests.benchmarks.placement $(SIMULATE_ARGS)

docs: $(VENV)/.develops
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean --config-file docs/site/mkdocs.yml
	@echo "build/site/index.html"

servers:
	@VENV=$(VENV) PYTHON=$(PYTHON) deploy/servers

schema: $(VENV)/.develops
	$(BIN)/python config/schema.py
	$(BIN)/python docs/generate.py

clean:
	@if [ -e $(VENV)/.runs ]; then $(BIN)/python deploy/demo/demo.py --stop; $(BIN)/python deploy/fleet/fleet.py --stop; fi
	rm -rf $(VENV) demo-data fleet-data locality-data platforms-data build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
