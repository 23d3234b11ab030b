# Two commands: `make demo` runs the main job, `make test` passes the tests; each sets itself up.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:
# The newest that really runs: the name of a version may be there without the version (version managers).
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11,$(shell python$(version) -c "import venv" 2>/dev/null && echo python$(version))) python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
TIMES ?= 20
SEED ?= 1
export UV_COMPILE_BYTECODE := 1

.PHONY: demo test test-all fuzz lint types bench clean help

help:
	@grep -E '^[a-z-]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:.*# */\t/'

# The stamp is written last, so an interrupted installation is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[hub,netcdf,lora,torchgeo,archive,skimage,dev]'
	touch $@

demo: $(VENV)/.installed # simulate, prepare, pre-train, evaluate, embed, and write $(OUT)/report.html
	$(BIN)/anyband demo --out $(OUT)

test: $(VENV)/.installed # run the tests
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed # run the slow tests too, and property tests on examples drawn anew
	$(BIN)/python -m pytest -m "" --hypothesis-profile=random

fuzz: $(VENV)/.installed # damage inputs thousands of times, other ones with each SEED, as the tests do some hundred times
	ANYBAND_FUZZ_TIMES=$(TIMES) ANYBAND_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/.installed # check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed # check types of src and benchmarks
	$(BIN)/mypy

bench: $(VENV)/.installed # measure speed; prints tables and writes benchmarks/results
	PYTHON=$(BIN)/python benchmarks/cpu.sh

clean: # remove the environment and the demo's output
	rm -rf $(VENV) $(OUT)
