# Every command of the project, for people and CI alike. `make` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter that .venv is made with. `make gpu` runs everything with it and makes no .venv.
PYTHON ?= python3
# The torch of .venv; the numbers in README.md are against it. The module runs under 2.10 and newer.
TORCH ?= torch==2.13.0
# More arguments for pytest: make test PYTEST_ARGS='-k trunc_normal'
PYTEST_ARGS ?=
# Two processes: most of the time goes into compilers and interpreted kernels, which use one core.
PYTEST := python -m pytest -n 2 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
HERE := $(shell pwd)
CSRC := $(shell find csrc -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# The compute capability of the GPU in this machine, empty without one.
GPU_ARCH = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
# The demo compiles CUDA kernels only where it can run them, and only for that GPU: five
# architectures take minutes, the CPU kernels half a minute (CONTRIBUTING.md, "Build times").
DEMO_BUILD = $(if $(GPU_ARCH),INITSTATS_CUDA=auto INITSTATS_CUDA_ARCHS=$(GPU_ARCH),INITSTATS_CUDA=0)

# The folders of tests, one per package: make test-init, make test-statistics, ...
PACKAGES := $(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/test_*.py))))

.PHONY: help venv demo test $(PACKAGES:%=test-%) docs wheel fuzz lint format cuda golden bench instructions scale gpu clean

help: ## List the commands
	@sed -nE 's/^([a-z]+(-init)?):.*## (.*)/make \1\t\3/p' $(MAKEFILE_LIST) | expand -t 16

# ---- .venv in steps, so that the demo installs and compiles no more than it runs

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet '$(TORCH)' numpy jinja2 rich typer matplotlib 'setuptools>=77' ninja 'pybind11>=2.13'
	touch $@

$(VENV)/demo.stamp: $(VENV)/run.stamp setup.py $(CSRC)
	$(DEMO_BUILD) $(BIN)/pip install --quiet --no-build-isolation --editable '.[plot]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $@

$(VENV)/build.stamp: $(VENV)/dev.stamp setup.py $(CSRC)
	$(BIN)/python csrc/build/compile.py
	touch $@

venv: $(VENV)/build.stamp ## Make .venv with all tools and the extension, built in place

# ---- what people and CI run

demo: $(if $(wildcard $(VENV)/dev.stamp),$(VENV)/build.stamp,$(VENV)/demo.stamp) ## Initialise and audit a small GPT on English text
	$(BIN)/initstats audit --demo

test: $(VENV)/build.stamp ## All tests, then those of the ops again with the CUDA kernels executed on the CPU
	$(BIN)/$(PYTEST) $(PYTEST_ARGS)
	$(BIN)/$(PYTEST) --backend=cuda-on-cpu $(PYTEST_ARGS)

test-init: ## The tests of one package, on the CPU; so for every folder of tests
$(PACKAGES:%=test-%): test-%: $(VENV)/build.stamp
	$(BIN)/$(PYTEST) tests/$* $(PYTEST_ARGS)

docs: $(VENV)/build.stamp ## The documentation site, in build/docs; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

wheel: $(VENV)/dev.stamp ## Source distribution and manylinux wheel for the Python of .venv, in dist
	rm -rf build/dist dist
	$(BIN)/python -m build --no-isolation --outdir build/dist .
	PATH="$(HERE)/$(BIN):$$PATH" python -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist build/dist/*.whl
	cp build/dist/*.tar.gz dist
	$(BIN)/twine check --strict dist/*

lint: $(VENV)/dev.stamp ## Formatting, ruff, mypy, clang-format, workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/dev.stamp ## Rewrite all files as lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

fuzz: $(VENV)/build.stamp ## Ten minutes of atheris on what reads files of others; needs pip install atheris
	$(BIN)/python tests/fuzz/fuzz.py -max_total_time=600 -artifact_prefix=build/fuzz-

cuda: $(VENV)/build.stamp ## nvcc for sm_75, 80, 90, 100, 120, and the checks of what it emits
	INITSTATS_CUDA=1 INITSTATS_CUDA_ARCHS='75;80;90;100;120' $(BIN)/python csrc/build/compile.py
	INITSTATS_REQUIRE_NVCC=1 $(BIN)/$(PYTEST) tests/kernels $(PYTEST_ARGS)

golden: $(VENV)/build.stamp ## Add the golden values that are missing; those that are there never change
	$(BIN)/python tests/support/golden.py

bench: $(VENV)/build.stamp ## All benchmarks on this CPU, into benchmarks/results
	$(BIN)/python -m pytest benchmarks --benchmark-json="$$($(BIN)/python -m benchmarks.results_file)"

instructions: $(VENV)/build.stamp ## Count instructions per element anew, where a kernel or a small call changed on purpose
	$(BIN)/python tests/support/instruction_counts.py

scale: $(VENV)/build.stamp ## Fill one rank of 1,024 of a Llama with 405 billion parameters (1 GB of memory)
	PYTHONPATH='$(HERE):$(HERE)/tests/support' $(BIN)/python tests/support/models_at_scale.py 405b 0
	PYTHONPATH='$(HERE):$(HERE)/tests/support' $(BIN)/python tests/support/models_at_scale.py 405b 1023

gpu: ## Build, test and measure on a GPU, with what PYTHON has; installs nothing
	PYTHON='$(PYTHON)' bash tests/gpu/quarter_hour.sh

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f initstats/_C*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
