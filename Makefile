# `make help` lists the targets. Written for GNU make 3.81, the one that macOS ships, and later.

PYTHON ?= python3
UPGRADE ?= --upgrade
CODE := src tests benchmarks

# The stages call `mnist` by name, whether or not the environment is activated.
ACTIVE := PATH="$(CURDIR)/.venv/bin:$$PATH"
PIP := .venv/bin/python -m pip --disable-pip-version-check
# uv knows nothing of pip's settings; the one that a network most often asks for is handed on.
UV := UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$PIP_INDEX_URL}}" .venv/bin/uv

# A stamp is written when its installation has ended, and put away while another changes the environment: without the first
# stamp, whatever lies in .venv was interrupted and is built anew. That one names the call of make that wrote it, by when the
# call started.
STARTED := $(shell date +%s)
RUN := .venv/.run-installed
DEV := .venv/.dev-installed
GPU := .venv/.gpu-installed
S3 := .venv/s3

.DEFAULT_GOAL := help
.PHONY: help install run test faults check docs-check screenshots format ui gpu baselines lock clean scm

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

install: $(RUN) ## Create .venv with the pinned environment (the targets below do so themselves)
	@echo ".venv is ready."

run: scm ## Run the whole pipeline, then show the trained models and what to type next
	@ready=$$(date +%s); $(ACTIVE); mnist ready && dvc repro && mnist sync && mnist summary && $(tell_how_long)

test: $(DEV) scm ## Run the test suite; ARGS="-k data" is handed to pytest
	@$(ACTIVE) python -m pytest $(ARGS)

faults: $(DEV) $(S3) ## Hurt each part in every way; write docs/failure-matrix.md (an hour); ARGS=study plays a part
	@$(ACTIVE); PYTHONPATH=tests MNIST_FAULTS_S3=$(CURDIR)/$(S3)/bin/python python tests/faults/run.py "$(ARGS)"

check: $(DEV) ## Check lint, format, types, import contracts and the installed packages
	@$(ACTIVE) ruff check $(CODE)
	@$(ACTIVE) ruff format --check $(CODE)
	@$(ACTIVE) PYRIGHT_PYTHON_IGNORE_WARNINGS=1 pyright $(CODE)
	@$(ACTIVE) lint-imports
	@$(PIP) check

docs-check: $(DEV) ## Run every command of README and docs/ in a clone (a quarter of an hour)
	@$(ACTIVE); PYTHONPATH=tests python tests/docs/run_commands.py

screenshots: $(DEV) ## Renew docs/images from this project's store, which needs a champion and a study
	@$(ACTIVE); PYTHONPATH=tests python tests/docs/screenshots.py

format: $(DEV) ## Fix what ruff can fix, and format
	@$(ACTIVE) ruff check --fix-only $(CODE)
	@$(ACTIVE) ruff format $(CODE)

ui: $(RUN) ## Browse all runs and models in MLflow
	@$(ACTIVE) mnist ui

gpu: $(GPU) ## Add the CUDA libraries for an NVIDIA GPU (Linux)
	@echo ".venv is ready for a GPU."

baselines: scm ## Train the published recipes that ours are measured against (an hour on two cores)
	@$(ACTIVE); mnist ready && dvc repro normalize && cd baselines && dvc repro

lock: $(RUN) ## Renew the locks to the newest allowed versions; UPGRADE= keeps the pins that still fit
	@$(call compile,requirements.lock)
	@$(call compile,requirements-uv.lock,--extra uv $(only_the_rest))
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

# The locks are complete, so there is nothing to resolve: only to fetch, verify and unpack. uv does that several times faster
# than pip, which does it all the same where uv cannot be had or does not reach the index. uv's own source is never built: that
# takes a Rust compiler. Bytecode is left to Python's first import, unless Python is told to write none.
fetch_uv = $(PIP) install -qq --no-deps --require-hashes --only-binary :all: -r requirements-uv.lock 2>/dev/null || true
install = reason=$$($(UV) pip install -q --python .venv/bin/python $${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} \
    --no-deps --require-hashes -r $(1) 2>&1) || { \
    echo "pip installs instead of uv, and takes longer, because of: $$(echo "$$reason" | head -n 1)"; \
    $(PIP) install -qq --no-deps --require-hashes -r $(1); }

$(RUN): requirements.lock requirements-uv.lock pyproject.toml
	@test -f $@ || { $(require_python); rm -rf .venv && $(PYTHON) -m venv .venv; }
	@rm -f $@
	@echo "Installing the pinned environment into .venv (3 GB; a minute or two the first time)."
	@$(fetch_uv)
	@$(call install,requirements.lock)
	@$(PIP) install -qq --no-deps -e .
	@echo $(STARTED) > $@

$(DEV): requirements-dev.lock $(RUN)
	@echo "Adding the test tools."
	@mv $(RUN) $(RUN).away
	@$(call install,requirements-dev.lock)
	@mv $(RUN).away $(RUN)
	@touch $@

$(GPU): requirements-gpu.lock $(RUN)
	@echo "Adding the CUDA libraries (several GB more)."
	@mv $(RUN) $(RUN).away
	@$(call install,requirements-gpu.lock)
	@mv $(RUN).away $(RUN)
	@touch $@

# An environment beside the one of the project, which it sees: DVC's S3 wants an older dateutil.
$(S3): | $(DEV)
	@.venv/bin/python -m venv $@.new
	@.venv/bin/python -c 'import site; print(*site.getsitepackages())' > $$(echo $@.new/lib/python*/site-packages)/project.pth
	@$@.new/bin/python -m pip install -qq 'dvc-s3>=3.3,<4' 'moto[server]>=5.2,<6' 2>&1
	@mv $@.new $@

tell_how_long = ended=$$(date +%s) && \
  in_words() { [ $$1 -lt 60 ] || printf '%d min ' $$(($$1 / 60)); printf '%d s' $$(($$1 % 60)); } && \
  pipeline=$$(in_words $$((ended - ready))) && \
  if [ "$$(cat $(RUN))" = $(STARTED) ]; then \
    echo "Set-up took $$(in_words $$((ready - $(STARTED)))), the pipeline $$pipeline."; \
  else \
    echo "The pipeline took $$pipeline."; \
  fi

# DVC wants a git repository that tracks the project, or to be told that there is none, as in a downloaded archive.
scm: $(RUN)
	@if test -e .git || git ls-files --error-unmatch Makefile >/dev/null 2>&1; then \
	  ! grep -qs no_scm .dvc/config.local || .venv/bin/dvc config -q --local --unset core.no_scm; \
	else \
	  grep -qs no_scm .dvc/config.local || .venv/bin/dvc config -q --local core.no_scm true; \
	fi

# A lock holds names, versions and hashes for every platform; where to fetch them is each reader's own business. All but the
# first name only what they add to it (uv appends a list of what it left out, which sed removes).
compile = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) $(2) \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file $(1) pyproject.toml && \
  sed -i.bak -e '/^$$/d' -e '/packages were excluded from the output/,$$d' $(1) && rm $(1).bak
only_the_rest = --constraint requirements.lock \
  $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)
