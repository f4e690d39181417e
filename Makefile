# Each target sets up what it needs in .venv, or with PYTHON=python3.12 in .venv-python3.12.
VENV := $(if $(PYTHON),.venv-$(notdir $(PYTHON)),.venv)
BIN := $(VENV)/bin

# yes: kernels that cannot be compiled are an error; no: everything runs on the pure ones.
export DISTRIBUTED_COMM_EXTENSIONS ?= yes
BUILT := $(VENV)/built-$(DISTRIBUTED_COMM_EXTENSIONS)

.PHONY: build style types test bench soak clean

build: $(BUILT)
style: build ; PATH=$(BIN):$$PATH; ruff format --check . && ruff check . && cython-lint distributed_comm
types: build ; $(BIN)/mypy
test:  build ; $(BIN)/pytest
bench: build ; $(BIN)/python -m distributed_comm.bench
soak:  build ; $(BIN)/python tests/soak.py $(or $(TIME),60)
clean:       ; rm -rf .venv .venv-* build dist *.egg-info .*_cache .hypothesis distributed_comm/_kernels/*.c distributed_comm/_kernels/*.so

$(VENV)/tools: pyproject.toml
	python=$$(.ci/python) && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq --group dev
	touch $@

$(BUILT): $(VENV)/tools setup.py $(wildcard distributed_comm/_kernels/*.p[xy][xd])
	$(BIN)/python -m pip install -qq --no-build-isolation --editable ".[bench,compression,fast,test]"
	touch $@
