PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[local]' --group dev
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/atropos-agent collect configs/terminal_tasks/quickstart.yaml

test: check
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	PYTHONPATH=. $(BIN)/pyright --verifytypes atropos_agent --ignoreexternal
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python scripts/bench_rollout.py
	$(BIN)/python scripts/bench_turn.py
	$(BIN)/python scripts/bench_sandbox.py

clean:
	rm -rf $(VENV) dist build
