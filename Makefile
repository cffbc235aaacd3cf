# Everything that is done with this checkout. `make help` lists it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BUF_VERSION := 1.75.0
GRPCIO_TOOLS_VERSION := 1.80.0
MYPY_PROTOBUF_VERSION := 5.1.0

MCP_SERVERS_VERSION := 2026.8.31
# The first that knows revision 2026-07-28.
MCP_CONFORMANCE_VERSION := 0.2.0-alpha.12

BIN := .venv/bin
BUF := .tools/node_modules/.bin/buf
MCP_SERVERS := .tools/mcp-servers
MCP_CONFORMANCE := .tools/mcp-conformance
NPM_INSTALL := PATH=$(CURDIR)/$(BIN):$$PATH npm install --loglevel=error --no-save --no-audit --no-fund --prefix
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# While one waits for a process another works.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Tests start hundreds of processes: what they import is compiled once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format generate chaos conformance bench bench-peers profile clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: .venv/.demo ## Install, start the three services, run an agent with a real MCP tool, stop
	@$(BIN)/python scripts/demo.py

test: .venv/.dev $(MCP_SERVERS)/.installed ## Install what the tests need, then run the whole suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: .venv/.dev $(BUF) .venv-protoc/.installed ## Style, types, import rules, protos, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python scripts/check_protos.py $(BUF)
	PATH=$(CURDIR)/.venv-protoc/bin:$$PATH .venv-protoc/bin/python scripts/generate.py --check
	.venv-protoc/bin/python scripts/reference.py --check
	.venv-protoc/bin/python scripts/descriptors.py | $(BIN)/python scripts/components.py --check

format: .venv/.dev ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: .venv/.dev .venv-protoc/.installed ## Make the stubs, the reference pages and the JSON Schema
	PATH=$(CURDIR)/.venv-protoc/bin:$$PATH .venv-protoc/bin/python scripts/generate.py
	.venv-protoc/bin/python scripts/reference.py
	.venv-protoc/bin/python scripts/descriptors.py | $(BIN)/python scripts/components.py

conformance: .venv/.dev $(MCP_CONFORMANCE)/.installed ## Drive MCP's client scenarios through the host, write docs/mcp-conformance.md
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python scripts/mcp_conformance.py $(MCP_CONFORMANCE) $(MCP_CONFORMANCE_VERSION)

chaos: .venv/.dev ## Kill, stop and cut for long, and check every story afterwards
	RETINUE_CHAOS=long $(BIN)/python -m pytest tests/chaos -s

bench: .venv/.dev ## Measure against the bare gRPC floor, in one run
	$(BIN)/python -m bench

bench-peers: .venv/.dev ## Measure other agent libraries beside it, each in an environment of its own
	$(BIN)/python -m bench --only peers

profile: .venv/.dev ## Show where the time of one agent run goes
	$(BIN)/python -m bench --only profile

clean: ## Remove what the other targets made
	rm -rf .venv .venv-protoc .tools bench/out

.venv/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Retinue needs Python 3.11 or newer: set PYTHON=…")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.created pyproject.toml
	$(PIP) install -e '.[all,examples]'
	touch $@

.venv/.dev: .venv/.created pyproject.toml
	$(PIP) install -e '.[dev]'
	touch $@ .venv/.demo

.venv-protoc/.installed: Makefile
	$(PYTHON) -m venv .venv-protoc
	.venv-protoc/bin/python -m pip --quiet --disable-pip-version-check install \
	  grpcio-tools==$(GRPCIO_TOOLS_VERSION) mypy-protobuf==$(MYPY_PROTOBUF_VERSION) 'setuptools<81'
	touch $@

# Published MCP servers, for the tests.
$(MCP_SERVERS)/.installed: .venv/.dev Makefile
	mkdir -p $(MCP_SERVERS)
	$(NPM_INSTALL) $(MCP_SERVERS) @modelcontextprotocol/server-everything@$(MCP_SERVERS_VERSION) \
	  @modelcontextprotocol/server-filesystem@$(MCP_SERVERS_VERSION) \
	  @modelcontextprotocol/server-memory@$(MCP_SERVERS_VERSION)
	touch $@

$(MCP_CONFORMANCE)/.installed: .venv/.dev Makefile
	mkdir -p $(MCP_CONFORMANCE)
	$(NPM_INSTALL) $(MCP_CONFORMANCE) @modelcontextprotocol/conformance@$(MCP_CONFORMANCE_VERSION)
	touch $@

$(BUF): .venv/.dev
	PATH=$(CURDIR)/$(BIN):$$PATH npm install --loglevel=error --no-save --no-audit --no-fund --prefix .tools \
	  @bufbuild/buf@$(BUF_VERSION)
	touch $@
