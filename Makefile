# Every target stands on its own on a fresh machine: Linux, python3 >= 3.11 with venv, g++, make.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
OUT ?= out/quick
BIN = $(VENV)/bin

comma = ,
SOURCES = pyproject.toml CMakeLists.txt $(shell find cpp python -type f -not -name '*.pyc')
CPP = $(shell find cpp bench -name '*.hpp' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

.PHONY: build reproduce test test-all bench lint format clean

build: $(VENV)/.installed-train

reproduce: $(VENV)/.installed-train
	$(BIN)/bitlaw reproduce --preset quick --out $(OUT)

test: $(VENV)/.installed-test$(addprefix -,$(EXTRAS))
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-test$(addprefix -,$(EXTRAS))
	$(BIN)/python -m pytest -m ''

bench: $(VENV)/.installed-bench$(addprefix -,$(EXTRAS))
	$(BIN)/python -m bench.ops

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The linters alone, without building the package.
$(VENV)/.installed-lint: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q 'ruff>=0.13' 'clang-format>=20'
	touch $@

# .installed-train, .installed-test, .installed-test-oracles: the package with those extras.
$(VENV)/.installed-%: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install '.[$(subst -,$(comma),$*)]'
	touch $@

clean:
	rm -rf build dist $(VENV)
