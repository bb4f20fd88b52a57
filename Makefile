# Everything sets itself up: a virtual environment in .venv with the exact versions of constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The oldest supported Ultralytics, beside the newest in the environment.
FLOOR  := $(VENV)/floor
# The oldest, the newest, and four between that build or keep models in another way than the one before.
RELEASES := 8.3.200 8.4.0 8.4.60 8.4.137 8.4.150 8.4.190
# Three workers with one thread each: most tests are too small to share out, and with two a core is idle where some wait.
# Some start interpreters, which would compile foveal each time where bytecode is not to be written.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-floor test-newest sweep releases check format docs calibration bench gpu

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/ready ## Install foveal and what its tests need into .venv

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "foveal and all that its tests need are installed into $(VENV): several GB to download, about 6 GB on disk."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python .ci/install.py --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(FLOOR)/ready: $(VENV)/ready
	oldest=$$($(BIN)/python -c "from foveal.hosts.ultralytics import OLDEST; print(OLDEST)") && \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(FLOOR) ultralytics==$$oldest
	touch $@

demo: ## A small study on drawn images, from nothing to its report
	@echo "A study of EMA on images that are drawn here: eight short trainings of yolo11n, then a report with the verdict."
	@echo "After the installation that takes about five minutes on two cores; a second call goes on where the first ended."
	@$(MAKE) --no-print-directory setup
	@$(BIN)/foveal demo

test: test-floor test-newest ## Run all tests, also against the oldest supported Ultralytics

test-newest: $(VENV)/ready ## Run all tests against the newest Ultralytics
	$(PYTEST)

test-floor: $(FLOOR)/ready ## Run what the oldest supported Ultralytics can change against it
	PYTHONPATH=$(CURDIR)/$(FLOOR) $(PYTEST) -m "host and not newest and not seldom"

sweep: $(VENV)/ready $(FLOOR)/ready ## Run all tests, and all members of long lists of which `make test` takes some
	PYTHONPATH=$(CURDIR)/$(FLOOR) $(PYTEST) --sweep -m "host and not newest"
	$(PYTEST) --sweep

releases: $(VENV)/ready ## Run a model's life on several releases of Ultralytics, and write docs/releases.md
	$(BIN)/python benchmarks/releases.py $(RELEASES)
	$(BIN)/python docs/releases.py > docs/releases.md

check: $(VENV)/ready ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready ## Apply the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready ## Write what foveal list and docs/attentions.md say from the cards, and tables from benchmarks/results
	$(BIN)/python docs/cards.py
	$(BIN)/python docs/attentions.py > docs/attentions.md
	$(BIN)/python docs/releases.py > docs/releases.md
	$(BIN)/python docs/calibration.py > docs/calibration.md
	$(BIN)/python docs/schemas.py
	$(BIN)/python docs/kernels.py
	$(BIN)/python docs/house.py > docs/house.svg
	$(BIN)/python docs/export.py

calibration: $(VENV)/ready ## Simulate how often a verdict is wrong, into benchmarks/results; two cores take half an hour
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/calibration.py
	$(BIN)/python docs/calibration.py > docs/calibration.md

# Alone on the machine: about half an hour on two cores.
bench: $(VENV)/ready ## Measure EMA's forms and whole models into benchmarks/results
	$(BIN)/foveal bench ema --shapes yolo11n,yolo11x --batch 1,8,16 --layout contiguous,channels_last \
		-o benchmarks/results/cpu.json
	$(BIN)/foveal bench ema --shapes yolo11n,yolo11x --rivals -o benchmarks/results/rivals.json
	$(BIN)/foveal bench ema@neck "ema(start=identity)@neck" --models yolo11n --rounds 80 \
		-o benchmarks/results/models.json

gpu: $(VENV)/ready ## Measure and tune EMA's kernels on this machine's GPU, in eight minutes
	$(BIN)/python benchmarks/gpu.py
