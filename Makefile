# Every target sets up its own environment in .venv from this folder's files. Nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
# On a machine without a CUDA card a smaller build does: make demo TORCH="torch==2.13.0 --index-url URL-OF-THE-CPU-BUILDS"
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2 --dist loadgroup
BENCH_ARGS ?=
DEMO_ARGS ?=
FUZZ_ARGS ?=
FAULT_ARGS ?=
SOAK_ARGS ?=
FAMILIES_ARGS ?=

# On a busy machine several OpenMP threads make the pocket model many times slower than one.
export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED = 1

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The tests in the real page need the packages of tests/web; without npm they are skipped and say so.
PAGE_STAMP := tests/web/node_modules/.package-lock.json

.PHONY: help demo test families check format bench bench-full bench-speed quick-prior scale fuzz fault soak clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         learn an unseen subject and write output/demo.png (about a minute)"
	@echo "make test         run the test suite"
	@echo "make families     try every model family of every ComfyUI found, tiny models on the CPU (half an hour)"
	@echo "make check        ruff and pyright; also checks that each ComfyUI found has what the pack imports"
	@echo "make format       let ruff rewrite the layout of the sources"
	@echo "make bench        the quick benchmark; make bench-full for all of it (over an hour); make bench-speed for timings"
	@echo "make quick-prior  what a prior from 20 subjects or 32 LoRA files is worth"
	@echo "make scale        what learning a hundred subjects in one run saves"
	@echo "make fuzz         break a million files for every reader; fewer: FUZZ_ARGS=\"--cases 10000\""
	@echo "make fault        kill the program and fill its disk at 2,800 random moments (half an hour); fewer: FAULT_ARGS=\"--moments 20\""
	@echo "make soak         queue 500 mixed prompts in one real ComfyUI server (half an hour); fewer: SOAK_ARGS=\"--prompts 60\""
	@echo "make clean        remove the environment and every cache"

$(STAMP): requirements.txt requirements-dev.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old for the pinned environment: Python 3.11 or newer is needed." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m metalora_core demo $(DEMO_ARGS)

$(PAGE_STAMP): tests/web/package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
	  npm ci --prefix tests/web --no-audit --no-fund --silent || echo "the packages of tests/web could not be installed; page tests will be skipped" >&2; fi

test: $(STAMP) $(PAGE_STAMP)
	$(BIN)/pytest $(PYTEST_ARGS)

families: $(STAMP)
	$(BIN)/python tests/families/walk.py $(FAMILIES_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/import_guard.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m metalora_core bench $(BENCH_ARGS)

bench-full: $(STAMP)
	$(BIN)/python -m metalora_core bench --full $(BENCH_ARGS)

fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0 \
	  || echo "atheris could not be installed; files are broken at random" >&2
	$(BIN)/python tests/fuzz/run.py $(FUZZ_ARGS)

fault: $(STAMP)
	$(BIN)/python tests/fault/run.py $(FAULT_ARGS)

soak: $(STAMP)
	$(BIN)/python tests/soak/run.py $(SOAK_ARGS)

bench-speed: $(STAMP)
	$(BIN)/python benchmarks/adapt_step.py $(BENCH_ARGS)

quick-prior: $(STAMP)
	$(BIN)/python benchmarks/quick_prior.py $(ARGS)

scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py $(SCALE_ARGS)

clean:
	rm -rf $(VENV) output tests/web/node_modules .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
