# Two commands do all the set-up on a machine that has Python and make: `make demo`, `make test`.
# uv is used where it is installed, venv and pip where it is not.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Half as many workers again as cores: many tests wait for a process or a server.
WORKERS  ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 2) * 3 // 2)')
PARALLEL ?= -n $(WORKERS) --dist worksteal
UV     := $(shell command -v uv 2>/dev/null)
export UV_PYTHON_DOWNLOADS = never
# Every process that a test starts would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE
# Tests sync thousands of small files: in memory, where there is room for them.
ifneq ($(shell df -k /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000'),)
export PYTEST_DEBUG_TEMPROOT := /dev/shm
endif

ifdef UV
make_venv = uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
install   = uv pip install --quiet --python $(BIN)/python
else
make_venv = $(PYTHON) -m venv $(VENV)
install   = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test test-slow lint check coverage wheel clean

demo: $(VENV)/local.stamp
	$(BIN)/textmill run embed -i sample_data/reports.jsonl --id id -o out/vectors.parquet
	$(BIN)/textmill search out/vectors.parquet "Why did the cable ferry run aground?" -n 3

# All fast tests, on every core: run before each change.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# Long laws, browsers, servers.
test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(PARALLEL) -m slow

# Before a commit.
check: lint test

# Branches, too. Processes that tests start are not measured.
coverage: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" --cov --cov-report=term:skip-covered

# What a user installs: built, installed alone, and run away from the checkout.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel/builder
	build/wheel/builder/bin/python -m pip install --quiet --disable-pip-version-check build
	build/wheel/builder/bin/python -m build --outdir dist
	$(PYTHON) -m venv build/wheel/user
	build/wheel/user/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/wheel && user/bin/textmill --help >/dev/null && user/bin/textmill chunks ../../README.md --tokenizer o200k_base >/dev/null
	rm -rf build/wheel

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check pipeline chunkers aggregators jobs
	$(BIN)/mypy

$(VENV)/local.stamp: pyproject.toml
	$(make_venv)
	$(install) -e '.[local]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml
	$(make_venv)
	$(install) -e '.[local,test]'
	@touch $@ $(VENV)/local.stamp

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
