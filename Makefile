# Two commands for a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help install demo test test-ptx train-demo exam lint format aot bench bench-video report sanitize clean

help:  ## show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tempo_fast needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[test]'
	touch $@

# What the video benchmark is measured against.
$(VENV)/.bench-installed: $(VENV)/.installed
	$(INSTALL) '.[test,bench]'
	touch $@

install: $(VENV)/.installed  ## virtual environment with pinned requirements

demo: install  ## make a video of known content and ask the shipped small Tempo about it
	$(BIN)/tempo-fast demo

# The tests' models are tiny: on a busy machine several threads wait for each other longer than they work.
test: install lint  ## lint and all tests that run anywhere
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-ptx: install  ## the kernel tests on compiled kernels, without a GPU: minutes; PTX=sm_80 SEED=1 choose
	TEMPO_FAST_PTX=$(or $(PTX),sm_90) TEMPO_FAST_PTX_SEED=$(or $(SEED),0) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/kernels -m gpu

aot: install  ## compile every kernel for sm_80, sm_90 and sm_100 (needs no GPU)
	$(BIN)/python -m benchmarks.aot

bench: $(VENV)/.bench-installed  ## benchmarks at the machine's size; BENCH="--size small --cases 64:1024" chooses
	$(BIN)/python -m pytest benchmarks --video-size short --rows bench-output/rows.json $(BENCH)

bench-video: $(VENV)/.bench-installed  ## the video front end against the published path at full size: two hours
	$(BIN)/python -m pytest benchmarks/test_video.py $(BENCH)

report: install  ## the results that are kept, and those of `make bench`, as a page with pictures
	$(BIN)/tempo-fast report benchmarks/results $(wildcard bench-output) --output report-output

sanitize: install  ## the allocation kernels under compute-sanitizer (needs a GPU); TOOLS=racecheck names one
	PYTHON=$(BIN)/python benchmarks/sanitize.sh $(TOOLS)

train-demo: install  ## train the shipped small Tempo anew, in demo-training and demo-model
	$(BIN)/python scripts/train_demo.py

exam: install  ## held-out videos and questions in demo-exam, for tempo-fast ablate
	$(BIN)/python scripts/make_exam.py demo-exam --seed 7

lint: install  ## ruff, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## ruff, changing what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the other commands made
	rm -rf $(VENV) *-output demo-training demo-model demo-exam build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
