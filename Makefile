# `make` prints the targets. Everything runs in .venv, which the first target that needs it makes from requirements.lock.
PYTHON ?= python3
PIP_FLAGS ?= --quiet
TORCH := 2.13.0

BIN := .venv/bin
INSTALLED := .venv/installed.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Test rooms in the order they run: wrong numbers show first, then what answers in seconds. Those of FIRST and OTHER run
# side by side, a file to a process, each on one thread: more threads than cores wait for one another. Those of LAST
# start clusters, which take the whole machine.
FIRST_TESTS := tests/golden/
LAST_TESTS := $(wildcard tests/ray/ tests/gpu/)
OTHER_TESTS := $(filter-out tests/__pycache__/ $(FIRST_TESTS) $(LAST_TESTS),$(wildcard tests/test_*.py tests/*/))
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all check lock clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'
	@echo "Python 3.11 or newer is needed; choose one with PYTHON=python3.12."

install: $(INSTALLED) ## make .venv from requirements.lock

demo: $(INSTALLED) ## run the small sweep that needs no data, model or GPU
	$(BIN)/python -m orchestrator.sweep

test: $(INSTALLED) ## run the tests, fast ones first, without the marks chaos, cluster and soak
	$(call run-tests,-m "not chaos and not cluster and not soak")

test-all: $(INSTALLED) ## run every test
	$(call run-tests,)

check: $(INSTALLED) ## lint, format, types and the rules of who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --durations=0 --durations-min=5 tests/test_import_rules.py

lock: ## resolve pyproject.toml anew and write requirements.lock
	$(need-python)
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install $(PIP_FLAGS) "torch==$(TORCH)" --editable ".[dev]"
	sed '/^[^#]/d' requirements.lock > build/lock/requirements.lock
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude wheel --exclude lethe-unlearning \
		| sed -E 's/\+[A-Za-z0-9.]+$$//' | grep -viE '^(nvidia-|cuda-|triton)' | LC_ALL=C sort -f -t= -k1,1 \
		>> build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock
	rm -rf build/lock

clean: ## remove caches and build output; the environment is checked anew by the next target
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(INSTALLED)
	find orchestrator methods metrics tests -name __pycache__ -type d -prune -exec rm -rf {} +

define run-tests
	@failed=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra $(1) $(SIDE_BY_SIDE) $(FIRST_TESTS) $(OTHER_TESTS) || failed=$$?; \
	[ $$failed = 2 ] && exit 2; \
	$(BIN)/python -m pytest -ra $(1) $(LAST_TESTS) || failed=1; \
	exit $$failed
endef

define need-python
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON) here; name another with PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Lethe needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
			"name another with PYTHON=python3.11" >&2; exit 2; }
endef

$(INSTALLED): requirements.lock pyproject.toml
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(MAKE) --no-print-directory .venv
	@echo "Installing the packages of requirements.lock into .venv, once; this takes some minutes."
	$(PIP) install $(PIP_FLAGS) -r requirements.lock
	$(PIP) install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: .venv
.venv:
	$(need-python)
	$(PYTHON) -m venv .venv
