# make quickstart   the whole default study, from nothing to tables, figures and report
# make test         all tests, in the same environment
# make lint         what CI checks besides tests
# make docs         everything in the docs that is generated: schema, key reference, README figures
# make bench-merge  merging speed and memory, beside mergekit and beside copying files (20 minutes)

PYTHON ?= python3
VENV ?= .venv
CORES ?= all
BIN := $(VENV)/bin
RUN := PATH="$(abspath $(BIN)):$$PATH"
CONFIGS := $(wildcard config/*.yaml)

.PHONY: help quickstart test lint docs bench-merge clean

help:
	@sed -n 's/^# //p' Makefile

# The environment: made once, and again when what it is made from changes.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"mergegrid needs Python 3.11 or newer, found {v.major}.{v.minor}; name another: make PYTHON=...")'
	@echo "== Environment: $(VENV), from constraints.txt (some minutes and about 2 GB, once)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

quickstart: $(VENV)/.ready
	@echo "== Run: fine-tune, drop, merge, score; progress of each job is in logs/"
	$(RUN) snakemake --cores $(CORES)
	@echo "== Report"
	$(RUN) snakemake --cores 1 --report results/report.html
	@echo "== Done"
	@$(BIN)/mergegrid summary

test: $(VENV)/.ready
	$(RUN) pytest

lint: $(VENV)/.ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint
	@for config in $(CONFIGS); do \
	  echo "dry run of $$config"; \
	  $(RUN) snakemake --dry-run --quiet rules host --configfile $$config || exit 1; \
	done

docs: $(VENV)/.ready
	$(BIN)/mergegrid docs
	$(RUN) $(BIN)/python docs/make_readme.py

bench-merge: $(VENV)/.ready
	$(BIN)/python benchmarks/merge.py --work .bench --deep $(BENCH)

clean:
	rm -rf results logs .snakemake
