# Every target does its own set-up, and does nothing where that is done (.ci/setup).
.PHONY: help setup check test demo bench soak lint clean
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
# In continuous integration a skipped test is a failed one (tests/no_skip.py).
PYTEST := $(PYTHON) -m pytest --durations=15 --durations-min=5 $(if $(BGPMESH_NO_SKIP),-p tests.no_skip)
# Labs wait most of the time: two workers a core (tests/side_by_side.py).
WORKERS := $(shell echo $$((2 * $$(nproc))))
# What makes claims in milliseconds has the machine for itself.
TIMED := tests/lab/test_bfd.py tests/lab/test_bfd_agent.py
ROOTLESS := tests/unit tests/property tests/golden $(wildcard tests/replay tests/test_*.py)

help:
	@echo "make demo    a three-node cluster in network namespaces, and pings across it"
	@echo "make check   format, lint, types and the tests that need no root"
	@echo "make test    everything, in twenty minutes at most"
	@echo "make soak    the same long: chaos, churn and repetition"
	@echo "make bench   the numbers"
	@echo "make setup   what all of them need; each calls it"
	@echo "make clean   remove what make has made"

setup:
	@.ci/setup python all

lint:
	@.ci/setup python
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

check: lint
	$(PYTEST) -n auto $(ROOTLESS)

test:
	@.ci/setup python all
	@$(MAKE) lint
	$(PYTEST) -p tests.side_by_side -n $(WORKERS) tests

soak:
	@.ci/setup python all
	BGPMESH_SOAK=1 $(PYTEST) --timeout 3600 -p tests.side_by_side -n $(WORKERS) $(TIMED:%=--ignore %) tests
	BGPMESH_SOAK=1 $(PYTEST) --timeout 3600 $(TIMED)

demo:
	@.ci/setup python lab
	@$(PYTHON) -m containerlab.demo

bench:
	@.ci/setup python all
	@$(PYTHON) -m tests.bench

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .lab build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
