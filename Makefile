# Two commands on a machine that has Python 3.11 and a package index:
#   make train   install, then train on the embedded dataset (CPU, about three minutes after installation)
#   make test    install, then run the tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: train test test-slow study lint types wheel-check clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: $(VENV)/.installed
	$(RUN) -m skinkd.train experiment=quickstart

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.installed
	$(RUN) -m pytest -m slow --timeout 3600

# takes hours on a CPU; can be resumed. STUDY="sweep.devices=2" runs two jobs at once
study: $(VENV)/.installed
	$(RUN) benchmarks/study.py $(STUDY)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed
	$(VENV)/bin/mypy

# installs the wheel as a user would, in a fresh environment and another directory
wheel-check: $(VENV)/.installed
	rm -rf build dist && $(RUN) -m build --wheel --outdir dist .
	sh tests/wheel_check.sh $(PYTHON) dist/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info
