# The three commands of the README. `make run PRESET=camvid-cpu DATA=../shared/camvid` runs another preset.
PYTHON ?= python3
VENV   ?= .venv
PRESET ?= demo
OUT    ?= runs/$(PRESET)
DATA   ?=
ROOM   ?=
NETWORKS ?= enet,fastscnn,fasterseg
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
QUICK  := tests/house/test_house.py tests/core tests/layers tests/data tests/models/test_models.py nbs/core nbs/layers

.PHONY: run test quick test-long test-browser docs lab install

run: $(VENV)/.installed
	$(BIN)/rtseg run --preset $(PRESET) --out $(OUT) --resume $(if $(DATA),--data $(DATA))

test: export RTSEG_WAIT_FOR_QUIET ?= 0  # seconds that a measurement waits for a quiet machine
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) tests nbs --durations=25

# While working: the house, core, layers, data and a few networks. `make quick ROOM=models` tries one room, its tests and pages; NETWORKS are those that sweeps over the registry are limited to.
quick: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(PYTEST) -m 'not slow and not long' --networks $(NETWORKS) --durations=5 $(if $(ROOM),tests/house/test_house.py $(wildcard tests/$(ROOM) nbs/$(ROOM)),$(QUICK))

# The demo as `make run` makes it, judged by what it promises.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long tests/end_to_end tests/runs --durations=5

# Chromium is looked for in RTSEG_CHROMIUM, then on the PATH; without one the tests are skipped with that reason.
test-browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest tests/browser/test_lab.py tests/browser/test_explorers.py tests/browser/test_page.py

docs: $(VENV)/.installed-docs
	$(BIN)/rtseg docs --out _docs

lab: $(VENV)/.installed
	$(BIN)/rtseg lab

install: $(VENV)/.installed

$(VENV)/.installed: settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -e '.[browser]'
	touch $@
