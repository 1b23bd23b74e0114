# Every target stands on its own on a fresh machine: Linux, python3 >= 3.11 with venv, g++, make.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
OUT ?= out/quick
BIN = $(VENV)/bin

comma = ,
SOURCES = pyproject.toml CMakeLists.txt $(shell find cpp python -type f -not -name '*.pyc')
CPP = $(shell find cpp bench tests -name '*.hpp' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

# One venv for all targets.
.NOTPARALLEL:
.PHONY: build reproduce test test-all sanitize bench lint format clean

build: $(VENV)/.installed-train

reproduce: $(VENV)/.installed-train
	$(BIN)/bitlaw reproduce --preset quick --out $(OUT)

test: $(VENV)/.installed-test$(addprefix -,$(EXTRAS))
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-test$(addprefix -,$(EXTRAS))
	$(BIN)/python -m pytest -m ''

# The ops' tests on a core with the address and undefined-behaviour sanitizers, in a venv of its own.
SANITIZERS = $(foreach name,asan ubsan,$(shell g++ -print-file-name=lib$(name).so))
sanitize:
	$(PYTHON) -m venv $(VENV)-sanitize
	$(VENV)-sanitize/bin/pip install -q '.[test]' -C cmake.define.BITLAW_SANITIZE=ON \
	  -C cmake.define.BITLAW_CUDA=OFF -C build-dir=build/sanitize
	LD_PRELOAD='$(SANITIZERS)' ASAN_OPTIONS=detect_leaks=0 \
	  $(VENV)-sanitize/bin/python -m pytest tests/ops -k 'not fork and not threads'

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

# Built once, whatever extras are installed with it.
$(VENV)/.built: $(SOURCES) | $(VENV)/bin/python
	rm -rf $(VENV)/wheel
	$(BIN)/pip wheel --no-deps -w $(VENV)/wheel .
	touch $@

# .installed-train, .installed-test, .installed-test-oracles: the package with those extras. (First
# alone: pip takes a wheel of a version that is there for the same.)
$(VENV)/.installed-%: $(VENV)/.built
	$(BIN)/pip install -q --force-reinstall --no-deps $(VENV)/wheel/*.whl
	$(BIN)/pip install "$$(echo $(VENV)/wheel/*.whl)[$(subst -,$(comma),$*)]"
	touch $@

clean:
	rm -rf build dist $(VENV) $(VENV)-sanitize
