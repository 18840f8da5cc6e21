# Every target does its own set-up. Needed beforehand: a C++20 compiler, Python 3.11 or later with `venv`, and make; where
# packages may not be installed, also the headers of nlohmann-json and xxHash.
#   make help      what there is

.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

PYTHON ?= python3
PRESET ?= debug
FUZZ_SECONDS ?= 3600
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

VENV := $(CURDIR)/.venv
OLDEST_RAY_VENV := $(CURDIR)/.venv-oldest-ray
REPORTS := $(CURDIR)/build/reports

# The environment's cmake, ninja and tools come first, also for the rebuild that an import of the package may start.
export PATH := $(VENV)/bin:$(PATH)
# Nothing here may look for a model on the network.
export HF_HUB_OFFLINE := 1
export RAY_USAGE_STATS_ENABLED := 0
# A Ray of its own, whatever other one runs on this machine.
export RAY_ADDRESS := local

# An import of the editable package rebuilds the extension when C++ changed, by running CMake. `setup` does that once;
# the many workers of a Ray cluster need not look again.
export SKBUILD_EDITABLE_SKIP = $(wildcard $(CURDIR)/build/editable-*)

PIP := $(VENV)/bin/python -m pip install -qq -c constraints.txt

## set-up

.PHONY: setup
setup: $(VENV)/.ready ## the virtual environment with pinned dependencies and the compiled extension
	@env -u SKBUILD_EDITABLE_SKIP python -c 'import ray_zerocopy._engine'

$(VENV)/.tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	@echo "Setting up .venv, once, in some minutes: the build tools ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing (Debian: apt-get install python3-venv)"; exit 1; }
	@$(PIP) scikit-build-core nanobind cmake ninja
	@touch $@

# torch goes in before anything that depends on it, so that the pinned build is the one that is found.
$(VENV)/.ready: $(VENV)/.tools pyproject.toml
	@.ci/ensure-cpp-library json
	@.ci/ensure-cpp-library xxhash
	@echo "... torch, Ray, the other packages and the extension"
	@$(PIP) $(shell grep ^torch== constraints.txt)
	@$(PIP) --no-build-isolation -e '.[bench,demo,test,lint]'
	@touch $@

# What the C++ tests need, for which nobody has to wait for torch and Ray.
.PHONY: cpp-tools
cpp-tools: $(VENV)/.tools
	@for library in json xxhash googletest; do .ci/ensure-cpp-library $$library || exit 1; done

.PHONY: googletest benchmark
googletest benchmark:
	@.ci/ensure-cpp-library $@

## the project's work

.PHONY: demo
demo: setup ## the main job on real input: four Ray actors embed Python's documentation and search it
	@python examples/semantic_search.py

.PHONY: test
test: cpp-tools ## the C++ tests and the Python tests
	@$(MAKE) --jobs=2 setup test-cpp
	@$(MAKE) test-python

.PHONY: test-cpp
test-cpp: cpp-tools ## the C++ tests alone (PRESET=debug, release, asan or tsan)
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET) --parallel $(JOBS)
	@mkdir -p $(REPORTS)
	ctest --preset $(PRESET) --parallel $(JOBS) --output-on-failure --output-junit $(REPORTS)/ctest-$(PRESET).xml

.PHONY: test-python
test-python: setup ## the Python tests alone
	python -m pytest --junitxml=$(REPORTS)/pytest.xml

.PHONY: test-faults
test-faults: setup ## the Python tests that take longer: stores on disk, a write storm of 60 s, namespaces
	python -m pytest -m faults --junitxml=$(REPORTS)/pytest-faults.xml

.PHONY: test-ecosystem
test-ecosystem: $(VENV)/.ecosystem ## the Python tests with the libraries that users wrap: PEFT, diffusers, ONNX Runtime, ...
	python -m pytest -m ecosystem --junitxml=$(REPORTS)/pytest-ecosystem.xml

.PHONY: ecosystem-table
ecosystem-table: $(VENV)/.ecosystem ## what works of them and what is shared, measured: rewrites the table in docs/ecosystem.md
	@PYTHONPATH=tests python -W ignore -m ecosystem_table

$(VENV)/.ecosystem: $(VENV)/.ready
	@$(PIP) --no-build-isolation -e '.[ecosystem]'
	@touch $@

SOAK_MINUTES ?= 30

.PHONY: soak
soak: setup ## 1,000 wraps and 10,000 loads over SOAK_MINUTES=30: a table of memory, descriptors, mappings, threads, store
	@PYTHONPATH=tests python -m soak $(SOAK_MINUTES)

.PHONY: sanitize
sanitize: ## the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer
	$(MAKE) test-cpp PRESET=asan
	$(MAKE) test-cpp PRESET=tsan

FUZZ_TARGETS = checkpoint image maps placement plan scans view

# What is found goes to the inputs that are kept, and so becomes a test.
.PHONY: fuzz
fuzz: setup ## libFuzzer on what the engine takes from outside, under both sanitizers, in an hour (FUZZ_SECONDS=3600)
	@.ci/ensure-cpp-library fuzzer
	cmake --preset fuzz
	cmake --build --preset fuzz --parallel $(JOBS)
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p build/fuzz/corpus/$$target && \
	  UBSAN_OPTIONS=print_stacktrace=1 build/fuzz/engine/fuzz/zerocopy_fuzz_$$target \
	    build/fuzz/corpus/$$target engine/fuzz/$$target -artifact_prefix=engine/fuzz/$$target/ -timeout=30 \
	    -max_total_time=$$(($(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)))) -print_final_stats=1 || exit 1; \
	done

# The installed wheel, with the oldest Ray before everything else as it is in .venv.
.PHONY: test-oldest-ray
test-oldest-ray: $(OLDEST_RAY_VENV)/.ready ## the Python tests on the oldest supported Ray
	python -m pip --python $(OLDEST_RAY_VENV) install -qq --force-reinstall --no-deps --no-build-isolation -Cbuild-dir=build/wheel .
	PATH=$(OLDEST_RAY_VENV)/bin:$$PATH python -m pytest --junitxml=$(REPORTS)/pytest-oldest-ray.xml

$(OLDEST_RAY_VENV)/.ready: $(VENV)/.ready requirements-oldest-ray.txt
	@echo "Setting up .venv-oldest-ray ..."
	@python -m venv --clear --without-pip $(OLDEST_RAY_VENV)
	@python -m pip --python $(OLDEST_RAY_VENV) install -qq --no-deps -r requirements-oldest-ray.txt
	@python -c 'import site; print(site.getsitepackages()[0])' > \
	  "$$($(OLDEST_RAY_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/environment.pth"
	@touch $@

.PHONY: bench
bench: setup ## this beside other ways to share a model: tables and charts in docs/benchmarks.md, in an hour
	@python -m benchmarks

.PHONY: bench-quick
bench-quick: setup ## the same with one model and two systems, into build/benchmarks/, in 2 minutes
	@python -m benchmarks --quick

.PHONY: docs
docs: $(VENV)/.docs ## the documentation as a site, in site/; warnings are errors
	mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.ready
	@$(PIP) --no-build-isolation -e '.[docs]'
	@touch $@

## what keeps the sources in order

CPP_SOURCES = $(shell find engine -name '*.cpp' -o -name '*.h')

.PHONY: lint
lint: setup googletest benchmark ## clang-format, clang-tidy, ruff, and mypy (strict) on the package
	cmake --preset lint
	clang-format --dry-run -Werror $(CPP_SOURCES)
	printf '%s\n' $(filter %.cpp,$(CPP_SOURCES)) | xargs -n 1 -P $(JOBS) clang-tidy --quiet -p build/lint
	ruff check .
	ruff format --check .
	python -c 'import ray_zerocopy'  # which rebuilds the extension, and with it the stub, if C++ changed
	mypy

.PHONY: format
format: setup ## rewrites the sources as `make lint` wants them
	clang-format -i $(CPP_SOURCES)
	ruff check --fix .
	ruff format .

.PHONY: wheel
wheel: setup ## a wheel in dist/ that other machines can use
	pip wheel --quiet --no-deps --no-build-isolation -w dist .

.PHONY: clean
clean: ## removes what was built, but not the virtual environments
	rm -rf build dist site wheelhouse .mypy_cache .pytest_cache .ruff_cache src/ray_zerocopy/_engine* $(VENV)/.ready

.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18
