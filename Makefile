# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= a red ball bounces over the ocean
OUT ?= out/demo.mp4

# Tests of what a device runs: none of them needs torch.
LEAN := balancing building bundle byte_products choosing cli decoding doctor embed_ahead embedding embedding_cache forms \
	frame_check geometry installed interrupts latents_file lowering lowering_cache machine memory memory_plan mixed noise outputs \
	packaging png probe recipes reel request rewriting runtime_without_torch video writing
# A process for each core; the tests of one file share its fixtures.
PARALLEL := -n auto --dist loadfile

.PHONY: help demo test test-lean test-full lint types scores train distill grow clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/runtime.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[cpu]"
	touch $@

$(VENV)/dev.done: $(VENV)/runtime.done constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/runtime.done ## Set up the lean runtime (no torch) and make a video: PROMPT="..." OUT=file.mp4
	mkdir -p $(dir $(OUT))
	$(BIN)/edgereel generate "$(PROMPT)" -o $(OUT)

test: lint types test-lean ## Set up everything and run all tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not full"

$(VENV)-lean/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-lean
	$(VENV)-lean/bin/python -m pip install --quiet -c constraints.txt -e ".[cpu]" pytest pytest-xdist hypothesis pillow
	touch $@

test-lean: $(VENV)-lean/done ## Run the runtime's tests where torch, diffusers and transformers are not installed
	! $(VENV)-lean/bin/python -c "import torch" 2>/dev/null
	$(VENV)-lean/bin/python -m pytest -q $(PARALLEL) -m "not full" $(addprefix tests/test_,$(addsuffix .py,$(LEAN)))

test-full: $(VENV)/dev.done ## Run the slow checks too
	$(BIN)/python -m pytest

lint: $(VENV)/dev.done ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done ## Check types
	$(BIN)/mypy

scores: $(VENV)/dev.done ## Score the demo model beside its teacher on held-out captions (half an hour)
	$(BIN)/python -m edgereel.demo.few_steps --sheet docs/few_steps.png

train: $(VENV)/dev.done ## Train the demo on CPU (hours; resumable): RUN=folder
	$(BIN)/python -m edgereel.demo.training --preset cpu --run $(or $(RUN),out/run) --checkpoint out/checkpoint

distill: $(VENV)/dev.done ## Distil the demo's few-step student on CPU (an hour; resumable): RUN=folder
	$(BIN)/python -m edgereel.demo.training --preset cpu --run $(or $(RUN),out/distill) --distill demo/checkpoint \
		--checkpoint out/student

grow: $(VENV)/dev.done ## Grow the demo to larger formats and endless streams on CPU (hours; resumable): RUN=folder
	$(BIN)/python -m edgereel.demo.growing --run $(or $(RUN),out/growth)

clean: ## Remove the virtual environment and what was made
	rm -rf $(VENV) $(VENV)-lean out build dist *.egg-info
