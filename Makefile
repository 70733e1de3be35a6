# Everything runs in .venv, which is made when it is missing or older than its inputs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.dev-installed
DEMO := $(VENV)/.demo-installed

.DEFAULT_GOAL := help
.PHONY: help demo test slow bench lint types format docs notebooks clean

help: ## Show this help
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(DEMO) ## Train, score, save, reload and use an instance-wise prompt (two to seven minutes)
	$(BIN)/promptwise demo

# A process for each core, each with whole files in the order of their names, and one thread each.
test: $(DEV) ## Run the default tests; no network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

slow: $(DEV) ## Run the tests that need minutes or the data beside the repository
	$(BIN)/python -m pytest -m slow

bench: $(DEV) ## Measure training steps beside the frozen model's floor (BENCH="--data-dir DIR" reads SST-2 from a folder, --setup minilm is less)
	$(BIN)/python benchmarks/step_time.py --json runs/bench.json $(BENCH)

lint: $(DEV) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## Check types
	$(BIN)/mypy

format: $(DEV) ## Fix what can be fixed of the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV) ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(DEV) ## Run the notebooks of the documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=300 docs/notebooks

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "promptwise needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Use make PYTHON=python3.12.")'
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing promptwise and torch into $(VENV): about a minute, more on a slow network."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[offline]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing promptwise, torch and the tools into $(VENV): about a minute, more on a slow network."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[offline,pretrain,figures,tensorboard,serve,ray,export,docs,dev]'
	@touch $@ $(DEMO)
