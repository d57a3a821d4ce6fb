# The three commands of the README. `make run PRESET=camvid-cpu DATA=../shared/camvid` runs another preset.
PYTHON ?= python3
VENV   ?= .venv
PRESET ?= demo
OUT    ?= runs/$(PRESET)
DATA   ?=
BIN    := $(VENV)/bin

.PHONY: run test test-browser docs lab install

run: $(VENV)/.installed
	$(BIN)/rtseg run --preset $(PRESET) --out $(OUT) --resume $(if $(DATA),--data $(DATA))

test: export RTSEG_WAIT_FOR_QUIET ?= 0  # seconds that a measurement waits for a quiet machine
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_test --skip_folder_re '^(stages|recipes|guides|[_.])'
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Chromium is looked for in RTSEG_CHROMIUM, then on the PATH; without one the tests are skipped with that reason.
test-browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest tests/browser/test_lab.py

docs: $(VENV)/.installed
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

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -e '.[browser]'
	touch $@
