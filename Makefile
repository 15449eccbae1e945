# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= a red ball bounces over the ocean
OUT ?= out/demo.mp4

# A process for each core; the tests of one file share its fixtures.
PARALLEL := -n auto --dist loadfile

.PHONY: help demo test test-lean test-full test-offline test-offline-install test-gpu-stand-ins test-server test-browser lint types docs pictures offline release scores train distill grow clean

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

# Types are checked beside the lean tests, and those do not run again afterwards.
test: $(VENV)/dev.done $(VENV)-lean/done ## Set up everything and run all tests
	$(MAKE) -j2 lint types test-lean
	$(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder -m "not full and not browser and (not lean or extras)"

$(VENV)-lean/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-lean
	$(VENV)-lean/bin/python -m pip install --quiet -c constraints.txt -e ".[cpu]" pytest pytest-xdist hypothesis pillow
	touch $@

test-lean: $(VENV)-lean/done ## Run the runtime's tests where torch, diffusers and transformers are not installed
	! $(VENV)-lean/bin/python -c "import torch" 2>/dev/null
	$(VENV)-lean/bin/python -m pytest -q $(PARALLEL) --lean -m "not full"

test-full: $(VENV)/dev.done ## Run the slow checks too
	$(BIN)/python -m pytest

test-offline: $(VENV)/dev.done ## Check in a network namespace that no command looks for another machine
	$(BIN)/python -m pytest -m offline

test-gpu-stand-ins: $(VENV)/dev.done ## Run the cuda engine on stand-ins for CUDA's libraries (downloads 540 MB, needs g++)
	EDGEREEL_STAND_INS=$(or $(STAND_INS),out/stand-ins) $(BIN)/python -m pytest tests/gpu_stand_ins -m stand_ins

test-server: $(VENV)/dev.done ## Try the server with 2,000 requests made from its own description, and 200 rounds of kill -9
	$(BIN)/python -m pytest -m full tests/server

test-browser: $(VENV)/dev.done ## Try the page and a film in a real Chromium: apt-get install chromium
	@command -v chromium >/dev/null || { echo "there is no chromium: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,browser]"
	$(BIN)/python -m pytest -m browser tests/server/page tests/story

test-offline-install: $(VENV)/dev.done ## Pack everything, install it where there is no network as another user, make a video there; as root
	$(BIN)/python -m pytest -m offline_install

offline: $(VENV)/dev.done ## Write wheels, bundles, unit, installer and checksums into a folder: OUT=folder PLATFORM=linux-aarch64 BUNDLE=x.reel
	$(BIN)/python -m edgereel.tools.offline $(if $(filter file,$(origin OUT)),out/offline,$(OUT)) $(if $(PLATFORM),--platform $(PLATFORM)) $(if $(BUNDLE),--bundle $(BUNDLE))

lint: $(VENV)/dev.done ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done ## Check types
	$(BIN)/mypy

docs: $(VENV)/dev.done ## Write docs/cli.md from the commands' own help
	$(BIN)/python -m edgereel.tools.cli_page

pictures: $(VENV)/dev.done ## Draw the pictures of README and docs anew, all but measured ones: apt-get install chromium
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,browser]"
	$(BIN)/python -m edgereel.demo.showcase docs/demo.png
	$(BIN)/python -m edgereel.tools.pictures.stories docs/stories.png
	$(BIN)/python -m edgereel.tools.pictures.page docs

release: $(VENV)/dev.done ## Build, check the wheel and the changelog, tag; DRY=1 does all but the tag
	$(BIN)/python -m edgereel.tools.release $(if $(DRY),--dry)

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
