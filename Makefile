# `make demo` and `make test` do all set-up on a machine with Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Sources are compiled once, whatever the surroundings say: tests and mutants start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-torch coverage lint laws mutants sanitize sanitize-undefined bench bench-full clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "varigrad needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/python examples/coin.py
	$(BIN)/python examples/sigmoid_belief_net.py --steps 1000
	$(BIN)/python examples/gaussian_mixture.py

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow" --doctest-modules src tests

# Part of the tests for the two targets below, as `make coverage TESTS=tests/test_svi.py`.
TESTS ?= tests
TORCH ?= 2.9.1

# The fast tests under another torch, `make test-torch TORCH=2.9.1`, also under one that pyproject.toml does not declare.
# The environment is its own; with CUDA, as the registry has it for Linux, torch takes several GB.
test-torch: .venv-torch-$(TORCH)/ready
	.venv-torch-$(TORCH)/bin/python -m pytest -n 2 -m "not slow" $(TESTS)

.venv-torch-%/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-torch-$*
	grep -Ev '^(torch|pyro-ppl)==' constraints.txt > .venv-torch-$*/requirements.txt
	.venv-torch-$*/bin/python -m pip install --quiet --disable-pip-version-check torch==$* -r .venv-torch-$*/requirements.txt
	.venv-torch-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Lines and branches that the fast tests run; what a test starts as a process of its own is not counted.
coverage: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(TESTS)

laws: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -m slow tests

test-all: test laws

mutants: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m mutants

# Steps under the address sanitizer: libtorch is not instrumented, our own C is, and so are memcpy and malloc.
SANITIZED := tests/test_step_law.py tests/test_c_codegen.py tests/test_c_loops.py tests/test_c_types.py \
	tests/test_capture.py tests/test_compiled.py tests/test_svi.py tests/compat/test_optim.py
ADDRESSES := CC="gcc -fsanitize=address -g" VARIGRAD_CACHE=$(CURDIR)/build/sanitized PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:detect_odr_violation=0
sanitize: $(VENV)/ready
	$(ADDRESSES) $(BIN)/python -m pytest -m "not slow" $(SANITIZED)
	$(ADDRESSES) PYTHONPATH=tests $(BIN)/python -m random_graphs 0 200

# The same under the undefined-behaviour sanitizer, which stops at the first thing that C leaves undefined.
UNDEFINED := CC="gcc -fsanitize=undefined -fno-sanitize-recover=undefined -g" VARIGRAD_CACHE=$(CURDIR)/build/undefined
sanitize-undefined: $(VENV)/ready
	$(UNDEFINED) $(BIN)/python -m pytest -m "not slow" $(SANITIZED)
	$(UNDEFINED) PYTHONPATH=tests $(BIN)/python -m random_graphs 0 200

$(VENV)/bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	touch $@

# NumPyro has an environment and processes of its own.
.venv-numpyro/ready: benchmarks/constraints-numpyro.txt
	$(PYTHON) -m venv .venv-numpyro
	.venv-numpyro/bin/python -m pip install --quiet --disable-pip-version-check -c $< numpyro jax jaxlib
	touch $@

# Minutes, and noisy; `bench-full` takes hours and wants the machine to itself.
bench: $(VENV)/bench .venv-numpyro/ready
	$(BIN)/python -m benchmarks.run --quick
	$(BIN)/python -m benchmarks.compiled

bench-full: $(VENV)/bench .venv-numpyro/ready
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.compiled --full

clean:
	rm -rf $(VENV) .venv-numpyro .venv-torch-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
