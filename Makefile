# Each target sets up what it needs in .venv, or with PYTHON=python3.12 in .venv-python3.12.
VENV := $(if $(PYTHON),.venv-$(notdir $(PYTHON)),.venv)
BIN := $(VENV)/bin

# yes: kernels that cannot be compiled are an error; no: everything runs on the pure ones.
export DISTRIBUTED_COMM_EXTENSIONS ?= yes
BUILT := $(VENV)/built-$(DISTRIBUTED_COMM_EXTENSIONS)

.PHONY: build style types test bench soak fuzz clean

build: $(BUILT)
style: build ; PATH=$(BIN):$$PATH; ruff format --check . && ruff check . && cython-lint distributed_comm
types: build ; $(BIN)/mypy && $(BIN)/python .ci/check_types.py
test:  build ; $(BIN)/pytest
bench: build ; $(BIN)/python -m distributed_comm.bench
soak:  build ; $(BIN)/python tests/soak.py $(or $(TIME),60)

# TIME: seconds for each of the targets, which is an hour in all if not told. The kernels under
# sanitizers are in an environment of their own; LDSHARED, for it is the fuzzer that brings the
# sanitizers' runtime.
FUZZ := $(VENV)-fuzz
SANITIZE := -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined
SANITIZE += -fno-sanitize=pointer-overflow # Cython adds 0 to NULL

fuzz: export DISTRIBUTED_COMM_EXTENSIONS = yes
fuzz: $(FUZZ)/tools
	clang=$$(.ci/clang) && CC="$$clang $(SANITIZE)" LDSHARED="$$clang -shared" CFLAGS="-g -O1" \
	$(FUZZ)/bin/python setup.py -q build --build-base $(FUZZ)/build --build-lib $(FUZZ)/sanitized
	PYTHONPATH=$(FUZZ)/sanitized:. $(FUZZ)/bin/python -P -m tests.fuzz $(or $(INPUT),$(or $(TIME),225) $(TARGETS))

$(FUZZ)/tools: pyproject.toml
	.ci/clang >/dev/null
	python=$$(.ci/python) && "$$python" -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install -qq --upgrade "pip>=25.1"
	$(FUZZ)/bin/python -m pip install -qq --group fuzz
	DISTRIBUTED_COMM_EXTENSIONS=no $(FUZZ)/bin/python -m pip install -qq --editable ".[compression]"
	touch $@

clean:       ; rm -rf .venv .venv-* .fuzz build dist *.egg-info .*_cache .hypothesis distributed_comm/_kernels/*.c distributed_comm/_kernels/*.so

$(VENV)/tools: pyproject.toml
	python=$$(.ci/python) && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq --group dev
	touch $@

$(BUILT): $(VENV)/tools setup.py $(wildcard distributed_comm/_kernels/*.p[xy][xd])
	$(BIN)/python -m pip install -qq --no-build-isolation --editable ".[bench,compression,fast,test]"
	touch $@
