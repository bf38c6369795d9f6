# The commands of a checkout. `make demo` and `make test` do all the set-up that they need, on a machine that has only make.
# Everything that is made lies in the checkout, in ignored folders: .venv (the environment), .cache (all the rest) and the
# extension modules beside their sources. Only tools/setup-machine.sh reaches outside, with apt-get, and says so.

PYTHON ?= python3
export PYTHON

VENV := .venv
CACHE := .cache
RESULTS := $(CACHE)/results
ASAN := $(CACHE)/asan
BIN := $(CURDIR)/$(VENV)/bin
VPYTHON := $(BIN)/python
PYTEST := $(VPYTHON) -m pytest
# A folder of tests may pin what it needs.
REQUIREMENTS := $(wildcard tests/requirements*.txt)
PIP := $(VPYTHON) -m pip --disable-pip-version-check

# The lanes of `make test`, in the order in which they run: what is likely to fail and quick comes first.
LANES := lint test-package test-unit test-programs conformance test-asan test-vm

# Processes that share the tests of one folder. Tests of time-outs want a processor for each, and more than four save little.
PARTS := $(shell processors=$$(nproc); echo $$((processors > 4 ? 4 : processors)))

# More arguments for one lane: make test-unit ARGS="-k accept -x"
ARGS ?=

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
SHELL := /bin/bash

.PHONY: help
help: ## says what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

# --- set-up

# The two checks are quick where nothing is missing, so they run each time: a machine changes without the checkout knowing.
.PHONY: machine-build machine-test machine-bench machine-vm
machine-build machine-test machine-bench machine-vm: machine-%:
	@tools/setup-machine.sh $*

# pip 25.1 is the first that reads [dependency-groups]; Debian 12 and older Pythons bring an earlier one.
define install-group
	@echo "installing with pip into $(VENV): the dependency group '$(1)' of pyproject.toml $(2:%=and %)"
	@test -x $(VPYTHON) || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) install -qq --upgrade 'pip>=25.1'
	@$(PIP) install -qq --group $(1) $(2:%=--requirement %)
	@touch $@
endef

$(VENV)/.group-build: pyproject.toml | machine-build
	$(call install-group,build)

$(VENV)/.group-dev: pyproject.toml $(REQUIREMENTS) | machine-test
	$(call install-group,dev,$(REQUIREMENTS))

# --- build

.PHONY: build
build: machine-build $(VENV)/.group-build extension ## builds the extension modules beside their sources, for .venv's Python

# setuptools and Cython compare time stamps by themselves, included files and .pxd among them.
.PHONY: extension
extension:
	@mkdir -p $(CACHE)
	@$(VPYTHON) setup.py --quiet build_ext --inplace --build-temp $(CACHE)/build
	@$(VPYTHON) tools/link_checkout.py

.PHONY: dev
dev: machine-test $(VENV)/.group-build $(VENV)/.group-dev extension bench-programs

# --- demo

.PHONY: demo
demo: build ## starts the file server on 127.0.0.1:8080 (PORT=8081: there); with DEMO_SECONDS=5 it checks itself and ends
	@exec $(VPYTHON) -m examples.file_server.demo $(if $(PORT),--port $(PORT)) $(ARGS)

# --- tests

.PHONY: test
test: dev ## everything: lint, every test, conformance and the address sanitizer
	@$(VPYTHON) tools/lanes.py $(LANES)

.PHONY: lint
lint: dev ## ruff, mypy --strict, cython-lint and shellcheck
	@# cython-lint calls pycodestyle by its name.
	@status=0; PATH="$(BIN):$$PATH"; \
	check() { echo "lint: $$*"; "$$@" || status=1; }; \
	check $(BIN)/ruff check .; \
	check $(BIN)/mypy; \
	check $(BIN)/cython-lint aiouring; \
	check $(BIN)/shellcheck tools/*.sh tests/vm/*.sh .ci/run; \
	exit $$status

.PHONY: test-unit
test-unit: dev ## the unit tests, in as many processes as there are processors; with ARGS in one
	@mkdir -p $(RESULTS)
ifeq ($(ARGS),)
	@$(VPYTHON) tools/test_parts.py $(PARTS) $(RESULTS)/test-unit $(PYTEST) tests/unit
else
	@$(PYTEST) tests/unit --junitxml=$(RESULTS)/test-unit.xml $(ARGS)
endif

.PHONY: test-package
test-package: dev ## pip install . in fresh environments, with a C compiler alone
	@mkdir -p $(RESULTS)
	@$(PYTEST) tests/package --junitxml=$(RESULTS)/test-package.xml $(ARGS)

.PHONY: test-programs
test-programs: dev ## unmodified programs on aiouring, against real servers
	@mkdir -p $(RESULTS)
	@$(PYTEST) tests/programs --junitxml=$(RESULTS)/test-programs.xml $(ARGS)

.PHONY: conformance
conformance: dev ## CPython's, uvloop's and aiofiles' own tests, on each Python of the machine
	@mkdir -p $(RESULTS)
	@$(VPYTHON) -m tests.conformance --json $(RESULTS)/conformance.json $(ARGS)
	@# Once more with a loop hook that leaves all to Python, on the Python of .venv alone.
	@$(VPYTHON) -m tests.conformance --loop aiouring-hook-inline --python $(VPYTHON) --json $(RESULTS)/conformance-hook.json $(ARGS)

.PHONY: test-asan
test-asan: dev ## the unit tests under Python's debug allocator, then with the address sanitizer
	@mkdir -p $(RESULTS)
	@tools/test-asan.sh $(RESULTS)/test-asan $(ARGS)

VM := $(CACHE)/vm

# Unpacked, not installed; `make clean` or the folder's removal brings the newest one.
$(VM)/vmlinux: | machine-vm
	@tests/vm/setup-kernel.sh $(VM)

.PHONY: test-vm
test-vm: dev $(VM)/vmlinux ## tests on a kernel with the loop hook, in a virtual machine (as root; ARGS="--only hook -x")
	@mkdir -p $(RESULTS)
	@$(VPYTHON) -m tests.vm $(ARGS)

.PHONY: vm-kernel
vm-kernel: $(VM)/vmlinux ## builds a kernel with BPF operations of its own for test-vm-opcode (as root; 12 minutes, 4 GB; then kept)
	@tests/vm/build-kernel.sh $(VM)

.PHONY: test-vm-opcode
test-vm-opcode: dev vm-kernel ## tests of BPF operations on that kernel, in a virtual machine (as root)
	@mkdir -p $(RESULTS)
	@$(VPYTHON) -m tests.vm --only opcode $(ARGS)

# --- benchmarks

BENCH := $(CACHE)/bench
BENCH_PYTHON := $(CACHE)/bench-venv/bin/python
# What needs OpenSSL's headers is made for `make bench` alone, so that the tests need not have them.
BENCH_TLS_SOURCES := $(wildcard benchmarks/c/tls_*.c)
BENCH_PROGRAMS := $(patsubst benchmarks/c/%.c,$(BENCH)/bin/%,$(filter-out $(BENCH_TLS_SOURCES),$(wildcard benchmarks/c/*.c)))
BENCH_TLS_PROGRAMS := $(patsubst benchmarks/c/%.c,$(BENCH)/bin/%,$(BENCH_TLS_SOURCES))

$(BENCH)/bin/%: benchmarks/c/%.c $(wildcard benchmarks/c/*.h) aiouring/include/aiouring_uapi.h
	@mkdir -p $(@D)
	@gcc -O2 -g -Wall -Wextra -o $@ $< $(BENCH_LIBRARIES)

$(BENCH_TLS_PROGRAMS): BENCH_LIBRARIES := -lssl -lcrypto

$(BENCH)/certificate.pem:
	@mkdir -p $(@D)
	@openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=localhost -keyout $@.key -out $@.certificate \
		2>$@.log || { cat $@.log >&2; exit 1; }
	@cat $@.key $@.certificate >$@

$(BENCH)/installed: benchmarks/requirements.txt benchmarks/peers.txt benchmarks/environment.py $(VENV)/.group-build
	@$(VPYTHON) -m benchmarks.environment
	@touch $@

# The floors and the load alone: tests run them without the peers.
.PHONY: bench-programs
bench-programs: machine-build $(BENCH_PROGRAMS)

.PHONY: bench
bench: machine-bench build bench-programs $(BENCH_TLS_PROGRAMS) $(BENCH)/certificate.pem $(BENCH)/installed ## measures against other loops, 25 minutes; QUICK=1 make bench: 3 minutes (ARGS="--help")
	@$(BENCH_PYTHON) -m benchmarks $(ARGS)

# --- the rest

.PHONY: bare-debian
bare-debian: ## make demo and make test in a bare Debian 12 (as root)
	@tools/bare-debian.sh

.PHONY: clean
clean: ## removes everything that was made, .venv and .cache too
	rm -rf $(VENV) $(CACHE) build dist *.egg-info
	find aiouring -name '*.so' -delete
	rm -rf aiouring/bpf/objects aiouring/bpf/include
	find aiouring -name '*.pyx' -exec sh -c 'for f; do rm -f "$${f%.pyx}.c"; done' sh {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
