# Two commands on a machine that has Python 3.11 and a package index:
#   make train   install, then train on the embedded dataset (CPU, about three minutes after installation)
#   make test    install, then run the tests
# and a third command that writes the documentation to site/: make docs
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
RUN_DIR ?= $(patsubst %/metrics.json,%,$(shell ls -t $(or $(SKINKD_OUTPUT_DIR),outputs)/*/metrics.json | head -n 1))
export NO_ALBUMENTATIONS_UPDATE = 1

# of pip's several hundred lines: files of a megabyte or more as they come, and how many packages there are
define PROGRESS
/(Downloading|Using cached) .*[MG]B/ { print; fflush() } \
/^Installing collected packages/ { print "  unpacking " NF - 3 " packages, about a minute"; fflush() }
endef

.PHONY: train export test test-slow test-cluster study study-report first-study bench docs lint types wheel-check clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): skinkd, the packages it needs and those of its tests and documentation, by constraints.txt"
	@echo "downloads of about 3 GB, most of them torch and its CUDA libraries; a few minutes, less if pip has them already"
	$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' | awk '$(PROGRESS)'
	@touch $@

train: $(VENV)/.installed
	@echo "training SW-SKD on the embedded dataset: 15 epochs, about three minutes on two CPU cores"
	$(RUN) -m skinkd.train experiment=quickstart

# the newest finished run as ONNX in float32 and int8, both scored. RUN_DIR=outputs/<run> takes another run, and
# EXPORT="accept_loss=true" gives settings
export: $(VENV)/.installed
	$(RUN) -m skinkd.export run='$(RUN_DIR)' $(EXPORT)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed
	$(RUN) -m pytest -m slow --timeout 3600

# as root on Debian or Ubuntu. It unpacks SLURM's packages into a temporary folder, which no other command sees, starts SLURM,
# runs the tests, and stops it; nothing is installed
test-cluster: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m cluster tests/cluster

# the study of fine-tuned networks (docs/study.md): all rows on five folds. SKINKD_WEIGHTS has the ImageNet weights, SKINKD_DATA_DIR
# the images. Days on a CPU, minutes on a GPU; given again, it goes on. STUDY="--rows supervised swskd --folds 0 --seeds 0" is a part
# STUDY="--regime scratch" trains its small networks from scratch; ablations, remedies and published figures are $(RUN) -m benchmarks.study ablations, … remedies, … published
study: $(VENV)/.installed
	$(RUN) -m benchmarks.study folds $(STUDY)

# docs/results.md again, from the committed archive alone; STUDY=--wandb makes its report in W&B too
study-report: $(VENV)/.installed
	$(RUN) -m benchmarks.study report $(STUDY)

# small networks from scratch (docs/first_study.md): hours on a CPU; can be resumed. STUDY="sweep.devices=2" runs two jobs at once
first-study: $(VENV)/.installed
	$(RUN) benchmarks/first_study.py $(STUDY)

# how fast this machine is: about a quarter of an hour on two cores, one table a section; build/bench/ has them as JSON and Markdown.
# SKINKD_DATA_DIR=/data takes HAM10000's images, and BENCH="--sections methods,loader --seconds 300" gives arguments (--help)
bench: $(VENV)/.installed
	$(RUN) -m benchmarks.bench $(BENCH)

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build
	@echo "open site/index.html in a browser"

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
	rm -rf $(VENV) build dist site *.egg-info
