# Two commands do all the set-up on a machine that has Python and make: `make demo`, `make test`.
# uv is used where it is installed, venv and pip where it is not.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
export UV_PYTHON_DOWNLOADS = never

ifdef UV
make_venv = uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
install   = uv pip install --quiet --python $(BIN)/python
else
make_venv = $(PYTHON) -m venv $(VENV)
install   = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test lint clean

demo: $(VENV)/local.stamp
	$(BIN)/textmill run embed -i sample_data/reports.jsonl --id id -o out/vectors.parquet
	$(BIN)/textmill search out/vectors.parquet "Why did the cable ferry run aground?" -n 3

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

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
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
