# On a machine with Python 3.11-3.13 and make, every target does the set-up that it needs.
#   make demo    the whole pipeline, small, on the CPU      make test    the quick tests
#   make check   format, lint, types                        make help    all targets

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The back end whose pinned requirements are installed: xla (CPU and SPMD on virtual devices), plan, tpu or cuda.
BACKEND ?= xla
# The Python to build .venv with; empty = the first suitable one of python3, python3.11, python3.12, python3.13.
PYTHON ?=
WORKERS ?= 2

VENV := .venv
STAMP := $(VENV)/.stamp-$(BACKEND)
# One thread a test worker: they are spread over the cores already.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup demo demo-long nano emoji test test-all check format bench lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target what; do \
	  printf '  make %-10s %s\n' "$$target" "$$what"; \
	done

setup: $(STAMP)  ## create .venv and install everything, pinned (BACKEND=xla, plan, tpu or cuda)

$(VENV)/bin/uv: requirements/uv.txt
	@python="$(PYTHON)"; \
	for candidate in python3 python3.11 python3.12 python3.13; do \
	  [[ -z "$$python" ]] || break; \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    >/dev/null 2>&1; then python="$$candidate"; fi; \
	done; \
	if [[ -z "$$python" ]]; then \
	  echo "error: no Python 3.11, 3.12 or 3.13 with venv found; name one: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 2; \
	fi; \
	[[ -x $(VENV)/bin/python ]] || "$$python" -m venv $(VENV); \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt; \
	touch $@

$(STAMP): $(VENV)/bin/uv pyproject.toml $(wildcard requirements/$(BACKEND)-py*.txt)
	@version="$$($(VENV)/bin/python -c 'import sys; print(f"py{sys.version_info[0]}{sys.version_info[1]}")')"; \
	pinned="requirements/$(BACKEND)-$$version.txt"; \
	if [[ ! -f "$$pinned" ]]; then \
	  echo "error: no $$pinned; for the Python in $(VENV) ($$version) there are:" requirements/*-"$$version".txt >&2; \
	  exit 2; \
	fi; \
	uv pip install --python $(VENV)/bin/python --require-hashes --no-deps -r "$$pinned"; \
	uv pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --quiet -e .; \
	touch $@

demo: $(STAMP)  ## shards, decoder, pretraining, finetuning, samples, scores, report: minutes on two cores
	tools/demo.sh

demo-long: $(STAMP)  ## the same with a larger budget: about 40 minutes
	tools/demo.sh --long

nano: $(STAMP)  ## remake the shipped nano encoder and language model
	tools/nano.sh

emoji: $(STAMP)  ## draw the emoji data set, pack it, pretrain on it
	tools/emoji.sh

test: $(STAMP)  ## the tests that are quick
	@$(TEST_ENV) pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

test-all: $(STAMP)  ## every test
	@$(TEST_ENV) pytest -q -n $(WORKERS) --dist loadfile

check: $(STAMP)  ## formatting, lint, types over src/
	ruff format --check .
	ruff check .
	mypy

format: $(STAMP)  ## put formatting and imports right
	ruff format .
	ruff check --fix .

bench: $(STAMP)  ## timings
	tools/bench.sh

# --- pinned, hashed requirements: one file a back end and Python version

LOCK := uv pip compile pyproject.toml --quiet --generate-hashes --no-emit-index-url --no-annotate \
	--python-platform x86_64-manylinux_2_31 --custom-compile-command "make lock" --upgrade \
	--constraint requirements/constraints.in
LOCK_XLA := $(LOCK) --constraint requirements/constraints-xla.in

lock: $(VENV)/bin/uv  ## regenerate requirements/*.txt from pyproject.toml
	for v in 11 12 13; do \
	  $(LOCK_XLA) --extra xla --extra gcs --extra dev --python-version 3.$$v -o requirements/xla-py3$$v.txt; \
	  $(LOCK) --extra cuda --extra gcs --extra dev --python-version 3.$$v -o requirements/cuda-py3$$v.txt; \
	done
	for v in 11 12; do \
	  $(LOCK_XLA) --extra tpu --extra gcs --extra dev --python-version 3.$$v -o requirements/tpu-py3$$v.txt; \
	  $(LOCK_XLA) --extra plan --extra gcs --extra dev --python-version 3.$$v -o requirements/plan-py3$$v.txt; \
	done
	echo "uv" | uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --custom-compile-command "make lock" --upgrade -o requirements/uv.txt

clean:  ## remove caches and builds (runs/, data/ and .venv stay)
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
