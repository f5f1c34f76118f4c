# Two commands matter: `make demo` and `make test`. Everything they install goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SEEDS ?= 2000
SEED ?=

.PHONY: demo test guests why-guests lint bench sim install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## the main job, visible, in about a minute
	$(BIN)/holdfast demo

test: $(STAMP)  ## everything that this machine can test; says what it left out
	$(BIN)/python -m pytest

guests: $(STAMP)  ## every case on virtual machines; `make test` has the two most important ones
	HOLDFAST_GUESTS=1 $(BIN)/python -m pytest tests/guest

why-guests: $(STAMP)  ## `holdfast why` after real resets of virtual machines: not part of `make test`, takes long
	HOLDFAST_GUEST_WHY=1 $(BIN)/python -m pytest tests/guest/test_why.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sim: $(STAMP)  ## simulation campaign: make sim SEEDS=20000, or SEED=n to replay one
	$(BIN)/python -m tests.sim.campaign --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

bench: $(STAMP)  ## side by side with the real sanlock (Debian package sanlock)
	$(BIN)/python -m benchmarks.lease

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
