# `make help` lists the targets. Written for GNU make 3.81, the one that macOS ships, and later.

PYTHON ?= python3
UPGRADE ?= --upgrade
CODE := src tests benchmarks

# The stages call `mnist` by name, whether or not the environment is activated.
ACTIVE := PATH="$(CURDIR)/.venv/bin:$$PATH"
PIP := .venv/bin/python -m pip --disable-pip-version-check
# The locks are complete, so pip has nothing to resolve: it only fetches, verifies and unpacks.
INSTALL := $(PIP) install -qq --no-deps --require-hashes

# A stamp is written when its installation has ended, and put away while another changes the environment: without the first
# stamp, whatever lies in .venv was interrupted and is built anew.
RUN := .venv/.run-installed
DEV := .venv/.dev-installed
GPU := .venv/.gpu-installed

.DEFAULT_GOAL := help
.PHONY: help install run test check format ui gpu baselines lock clean scm

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: $(RUN) ## Create .venv with the pinned environment (the targets below do so themselves)
	@echo ".venv is ready."

run: scm ## Run the whole pipeline, then show the trained models and what to type next
	@$(ACTIVE) dvc repro
	@$(ACTIVE) mnist sync
	@$(ACTIVE) mnist summary

test: $(DEV) scm ## Run the test suite; ARGS="-k data" is handed to pytest
	@$(ACTIVE) python -m pytest $(ARGS)

check: $(DEV) ## Check lint, format, types, import contracts and the installed packages
	@$(ACTIVE) ruff check $(CODE)
	@$(ACTIVE) ruff format --check $(CODE)
	@$(ACTIVE) PYRIGHT_PYTHON_IGNORE_WARNINGS=1 pyright $(CODE)
	@$(ACTIVE) lint-imports
	@$(PIP) check

format: $(DEV) ## Fix what ruff can fix, and format
	@$(ACTIVE) ruff check --fix-only $(CODE)
	@$(ACTIVE) ruff format $(CODE)

ui: $(RUN) ## Browse all runs and models in MLflow
	@$(ACTIVE) mnist ui

gpu: $(GPU) ## Add the CUDA libraries for an NVIDIA GPU (Linux)
	@echo ".venv is ready for a GPU."

baselines: scm ## Train the published recipes that ours are measured against (an hour on two cores)
	@$(ACTIVE) dvc repro baselines/dvc.yaml

lock: $(DEV) ## Renew the locks to the newest allowed versions; UPGRADE= keeps the pins that still fit
	@$(call compile,requirements.lock)
	@$(call compile,requirements-dev.lock,--extra dev $(only_the_rest))
	@$(call compile,requirements-gpu.lock,--extra gpu $(only_the_rest))

clean: ## Remove .venv, caches and built files; keep data, models and all that MLflow recorded
	rm -rf .venv dist dvc_plots .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: data, models, reports, .dvc/cache, .checkpoints, mlflow.db and mlruns. Delete them by hand if you mean to."

# --- How it is done -----------------------------------------------------------------------------------------------------

refuse = { echo "$(PYTHON) $(1)." >&2; exit 1; }
require_python = \
  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || \
    $(call refuse,is not Python 3.11 to 3.13 (the ones with a TensorFlow): name one as in PYTHON=python3.12 make run); \
  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
    $(call refuse,lacks its venv module: install it (on Debian and Ubuntu with apt-get install python3-venv))

$(RUN): requirements.lock pyproject.toml
	@test -f $@ || { $(require_python); rm -rf .venv && $(PYTHON) -m venv .venv; }
	@rm -f $@
	@echo "Installing the pinned environment into .venv (3 GB; a few minutes the first time)."
	@$(INSTALL) -r requirements.lock
	@$(PIP) install -qq --no-deps -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUN)
	@echo "Adding the test tools."
	@mv $(RUN) $(RUN).away
	@$(INSTALL) -r requirements-dev.lock
	@mv $(RUN).away $(RUN)
	@touch $@

$(GPU): requirements-gpu.lock $(RUN)
	@echo "Adding the CUDA libraries (several GB more)."
	@mv $(RUN) $(RUN).away
	@$(INSTALL) -r requirements-gpu.lock
	@mv $(RUN).away $(RUN)
	@touch $@

# DVC wants a git repository that tracks the project, or to be told that there is none, as in a downloaded archive.
scm: $(RUN)
	@if test -e .git || git ls-files --error-unmatch Makefile >/dev/null 2>&1; then \
	  ! grep -qs no_scm .dvc/config.local || .venv/bin/dvc config -q --local --unset core.no_scm; \
	else \
	  grep -qs no_scm .dvc/config.local || .venv/bin/dvc config -q --local core.no_scm true; \
	fi

# A lock holds names, versions and hashes for every platform; where to fetch them is each reader's own business. The dev and
# gpu locks name only what they add to the first (uv appends a list of what it left out, which sed removes).
compile = $(ACTIVE) uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) $(2) \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file $(1) pyproject.toml && \
  sed -i.bak -e '/^$$/d' -e '/packages were excluded from the output/,$$d' $(1) && rm $(1).bak
only_the_rest = --constraint requirements.lock \
  $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)
