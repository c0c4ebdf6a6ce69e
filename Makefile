# Every target does its own set-up. CPU only; `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Some machines set it. Then each of the hundreds of processes here would compile torch, Ray and
# Prefect again, which takes ten seconds of a core.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo up put get browser exiftool redis test test-thorough test-all properties chaos bench docs screenshots check lint types documents audit format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is not on PATH; install it, or set PYTHON=/path/to/python"; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON) (first time: some minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "Python has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@# torch first, since it is most of the download. Whether pip takes the CPU build or the CUDA
	@# build, of several GB, depends on its index: README says how to choose.
	@$(PIP) torch
	@$(PIP) --editable '.[dev]'
	@touch $(STAMP)

install: $(STAMP) ## create .venv with pinned packages

demo: $(STAMP) ## edit the sample catalog on this machine, from the table to the contact sheet
	@$(BIN)/python -m infra.demo

up: $(STAMP) ## run the local stack (object store, Prefect with its UI, worker) until Ctrl-C
	@exec $(BIN)/python -m infra.up

put: $(STAMP) ## copy a folder into the store of `make up`: FROM=pictures TO=s3://ace-demo/mine
	@$(BIN)/python -m infra.transfer "$(FROM)" "$(TO)"

get: $(STAMP) ## copy a folder out of it; with RUN=newest a run's pictures: FROM=s3://ace-demo/looks TO=looks
	@$(BIN)/python -m infra.transfer "$(FROM)" "$(TO)" $(if $(RUN),--run "$(RUN)")

browser: ## install Chromium for the browser tests (Debian; as root or with sudo)
	@for each in chromium chromium-browser google-chrome; do command -v $$each && exit 0; done; \
	root=$$(test "$$(id -u)" = 0 || echo sudo); \
	$$root apt-get -qq update && $$root apt-get -qq install --yes --no-install-recommends chromium

redis: ## install Redis for the test that loses a Ray head (Debian; as root or with sudo)
	@command -v redis-server || { root=$$(test "$$(id -u)" = 0 || echo sudo); \
	$$root apt-get -qq update && \
	$$root apt-get -qq install --yes --no-install-recommends redis-server; }

exiftool: ## install exiftool for the tests that read XMP with it (Debian; as root or with sudo)
	@command -v exiftool || { root=$$(test "$$(id -u)" = 0 || echo sudo); \
	$$root apt-get -qq update && \
	$$root apt-get -qq install --yes --no-install-recommends libimage-exiftool-perl; }

# Each worker takes whole files. Four workers suit two cores, because many tests wait for something
# to end or to come back.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --no-loadscope-reorder

test: $(STAMP) ## run the first tier of tests, which needs nothing but this project
	@$(PYTEST) --dist=loadgroup -m "not thorough and not alone and not gpu and not bench"

test-thorough: $(STAMP) browser exiftool redis ## run the second tier: browser, exiftool, Redis, and long failures
	@$(PYTEST) --dist=loadfile -m thorough
	@$(BIN)/python -m pytest -m alone

test-all: test test-thorough ## run both tiers

properties: $(STAMP) ## run the property tests, with thousands of new examples each
	@$(PYTEST) --dist=loadfile -m hypothesis --hypothesis-profile=full

SEED ?= 1
chaos: $(STAMP) ## break every part of a run of 500 items at random (SEED=n), resume it, and check all of it
	@$(BIN)/python -m tests.support.chaos --seed $(SEED)

# The systems that the engine is compared with need more packages.
$(VENV)/.bench: $(STAMP)
	@$(PIP) --editable '.[bench]'
	@touch $@

SCALE ?= 1
bench: $(VENV)/.bench ## measure the engine, and compare it with Ray Data, Prefect on Ray and a plain script
	@$(BIN)/python -m tests.benchmarks --scale $(SCALE)

$(VENV)/.docs: $(STAMP)
	@$(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## build the documents in out/docs/; fail on a broken link or reference
	@$(BIN)/python docs/_generate.py
	@$(BIN)/sphinx-build -W --keep-going -n -q -b html -d out/doctrees docs out/docs

screenshots: $(STAMP) browser ## take the screenshots in docs/tutorial/ anew, by the browser tests
	@$(BIN)/python -m pytest -q tests/scenarios/test_tutorials.py
	@$(BIN)/python -m tests.support.tutorial_pictures

check: lint types documents ## check lint, format, types, imports, published schemas, test ids and documents

# They begin when nothing is installed any more, so that `make -j2 check` may do two at a time.
lint: $(VENV)/.docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/ace-catalog schema --check ace_tasks/catalog-row.schema.json
	@$(BIN)/ace-catalog schema --of record --check ace_tasks/record.schema.json
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.rooms --check
	@$(BIN)/python -m tests.support.prose
	@$(BIN)/python -m tests.support.collection

types: $(VENV)/.docs
	@$(BIN)/mypy

documents: $(VENV)/.docs
	@$(BIN)/python docs/_generate.py --check
	@$(MAKE) --no-print-directory docs

# These tools have their own virtual environment, or they would list themselves.
$(VENV)/audit/.installed: $(STAMP)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1 pip-licenses==5.5.5
	@touch $@

# text-unidecode may also be used under the Artistic License. docutils builds the documents and is
# in no image; its one file under the GPL, a mode for Emacs, is not installed.
AUDIT := $(VENV)/audit/bin
audit: $(VENV)/audit/.installed ## list installed packages, their licences and known vulnerabilities in out/audit/
	@mkdir -p out/audit
	@$(AUDIT)/cyclonedx-py environment --output-format JSON --output-file out/audit/sbom.json $(BIN)/python
	@$(AUDIT)/pip-licenses --python $(BIN)/python --format markdown --output-file out/audit/licences.md \
		--ignore-packages text-unidecode docutils --partial-match \
		--fail-on "GNU General Public;GNU Affero;AGPL;GPL-2;GPL-3;Server Side Public"
	@# --strict: if the vulnerability service is unreachable, fail rather than report zero findings.
	@$(AUDIT)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --format json \
		--output out/audit/vulnerabilities.json

format: $(STAMP) ## format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

clean: ## remove .venv and out, but not the data of `make up` in .local
	rm -rf $(VENV) out
