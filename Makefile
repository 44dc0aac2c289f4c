# Every target works on a fresh clone: it makes .venv and installs the project into it, editable, when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_RUN ?= demo-run
OLDEST ?= .venv-oldest

.DEFAULT_GOAL := help
.PHONY: help install services demo test coverage unit oldest check lint format infra reference docs bench chaos clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "RamFleet needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), which takes some minutes the first time …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

install: $(STAMP)  ## make .venv and install the project into it

services:  ## install what tests need beside packages (a Ceph gateway for S3, Chromium, PostgreSQL, ip), as root
	infra/services/ceph.sh install
	infra/services/chromium.sh install
	infra/services/postgres.sh install
	infra/services/network.sh install

demo: $(STAMP)  ## tag the pictures that come with the project
	@$(BIN)/ramfleet tag ramcore/demo/pictures --out $(DEMO_RUN)
	@echo "Released weights: README.md, section \"Your own images, released weights\"."

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest tests/unit -n auto --dist worksteal --durations 20
	$(BIN)/python -m pytest tests/integration --durations 40
	$(BIN)/python -m pytest tests/cluster --durations 40

coverage: $(STAMP)  ## the share of lines that tests run, of every process that they start
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest tests/unit -q
	-$(BIN)/coverage run -m pytest tests/integration -q
	-$(BIN)/coverage run -m pytest tests/cluster -q
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

unit: $(STAMP)  ## the quick tests without Ray and network, on all cores
	$(BIN)/python -m pytest tests/unit -n auto --dist worksteal -m "not slow and not lengthy"

oldest:  ## the unit tests with the oldest dependencies that pyproject.toml admits
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --editable ".[test]"
	$(OLDEST)/bin/uv pip list --python $(OLDEST)/bin/python
	$(OLDEST)/bin/python -m pytest tests/unit -m "not slow" -W default -p no:cacheprovider

lint: $(STAMP)  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict infra
	$(BIN)/hadolint infra/docker/Dockerfile

check: lint test  ## lint and test

format: $(STAMP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

infra: $(STAMP)  ## generate infra/kuberay and infra/ray-up from infra/fleets
	$(BIN)/ramfleet quote --fleet infra/fleets/kubernetes.yaml --emit kuberay --to infra/kuberay/raycluster.yaml
	$(BIN)/ramfleet quote --fleet infra/fleets/kubernetes.yaml --emit kuberay-job --to infra/kuberay/rayjob.yaml
	$(BIN)/ramfleet quote --fleet infra/fleets/aws.yaml --emit ray-up --to infra/ray-up/aws.yaml
	$(BIN)/ramfleet quote --fleet infra/fleets/gcp.yaml --emit ray-up --to infra/ray-up/gcp.yaml
	$(BIN)/ramfleet quote --fleet infra/fleets/local.yaml --emit ray-up-local --to infra/ray-up/local.yaml

reference: $(STAMP)  ## write docs/reference, tables of other pages and NOTICES.md from the code
	$(BIN)/python docs/_tools/write_reference.py
	$(BIN)/python docs/_tools/write_notices.py

docs: $(STAMP)  ## build the site of docs/ into site/, links checked
	$(BIN)/python docs/_tools/draw_architecture.py
	$(BIN)/python -m sphinx -W --keep-going -q -E -c docs/_tools -d build/doctrees docs site

bench: $(STAMP)  ## figures of this machine
	$(BIN)/python -m tests.bench.run
	$(BIN)/python -m tests.bench.balance
	$(BIN)/python -m tests.bench.simulator
	$(BIN)/python -m tests.bench.search

chaos: $(STAMP)  ## long seeds of the killing tests
	RAMFLEET_CHAOS_ROUNDS=$${ROUNDS:-20} $(BIN)/python -m pytest tests/integration/test_kills.py \
	  tests/cluster/test_node_loss.py tests/cluster/test_node_churn.py tests/cluster/test_predictions.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(OLDEST) $(DEMO_RUN) build dist site *.egg-info
