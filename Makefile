# Two commands for a newcomer: `make serve` and `make test`. Everything is kept in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONFIG ?= configs/quickstart.yaml
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install serve test lint soak bench clean

# A stamp is newer than what was installed from: nothing is asked of any network until that changes.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[test,lint,bench]'
	touch $@

serve: install
	$(BIN)/kitserve serve $(CONFIG)

# What tests need of the system comes from Debian's packages, where this user may install them.
$(VENV)/.system: tests/system.sh
	sh tests/system.sh
	touch $@

test: $(VENV)/.installed-dev $(VENV)/.system
	$(BIN)/python -m pytest -m 'not soak'

soak: $(VENV)/.installed-dev $(VENV)/.system
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m loadtests.soak --minutes 30

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev $(VENV)/.system
	$(BIN)/python -m loadtests.bench
	$(BIN)/python -m loadtests.pull

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
