# `make demo` and `make test` are all a newcomer needs; both set up .venv first, and work offline once that is done.

.DEFAULT_GOAL := help
PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
READY := $(VENV)/.ready
# A file's tests share servers, so they stay together. The longest files come first, as their folders are called.
PYTEST = $(BIN)/pytest --numprocesses $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test lint unit chaos bench bench-lineage bench-memory bench-injection bench-screens bench-cascade
.PHONY: bench-flywheel bench-quality load-calls docs dashboards lock audit clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-13s %s\n", $$1, $$2}'

setup: $(READY) ## install everything that is pinned into .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON3) -c 'import sys; sys.exit("Weir needs Python 3.11 or later; set PYTHON3=") if sys.version_info < (3, 11) else 0'
	$(PYTHON3) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## the whole service on this machine, with text that Weir ships
	$(BIN)/weir demo $(ARGS)

test: lint ## lint, types and all tests: JOBS=3
	$(PYTEST) $(ARGS)

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY) ## tests that take seconds
	$(PYTEST) -m "not slow" $(ARGS)

chaos: $(READY) ## faults from seeds on real parts: RUNS=20 SEED=1 BROKER=tansu|apache|both ABOUT=messages|calls|both JOBS=3
	$(PYTHON) tests/chaos/run.py --runs $(or $(RUNS),20) --seed $(or $(SEED),1) --broker $(or $(BROKER),both) \
		--about $(or $(ABOUT),messages) --jobs $(or $(JOBS),3) $(ARGS)

bench: $(READY) ## the service beside other ways to do the same; writes bench/results.json and docs/performance.md
	$(PYTHON) -m bench.run $(ARGS)

bench-lineage: $(READY) ## trees among five million edges, their size, and what keeping them costs
	$(PYTHON) -m bench.run --only lineage $(ARGS)

bench-memory: $(READY) ## a worker's memory under a backlog of a million events
	$(PYTHON) bench/memory.py $(ARGS)

bench-injection: $(READY) ## how many prompt injections change a verdict
	$(PYTHON) -m bench.injection $(ARGS)

bench-screens: $(READY) ## candidates for the screen before the model, by language, category and obfuscation
	$(PYTHON) -m bench.screens $(ARGS)

bench-cascade: $(READY) ## how often the cascade's promise holds on real rows, and the calls that it saves
	$(PYTHON) -m bench.cascade $(ARGS)
	$(PYTHON) -m bench.cascade_http

bench-flywheel: $(READY) ## screens that learn from what they make visible: calls saved and recall over rounds
	$(PYTHON) -m bench.flywheel $(ARGS)

bench-quality: $(READY) ## the shipped screen alone, and the embedded model on tickets of 77 intents
	$(PYTHON) -m bench.quality $(ARGS)
	$(PYTHON) -m bench.tickets

load-calls: $(READY) ## a file of transcripts as turns through the review of calls: DATA=FILE ARGS="--kills 2"
	@$(PYTHON) -m bench.calls $(DATA) $(ARGS)

docs: $(READY) ## generated pages: pipeline schema, AsyncAPI, metrics, settings
	$(BIN)/weir schema pipeline > deploy/pipelines/pipeline.schema.json
	$(BIN)/weir schema asyncapi --pipelines deploy/pipelines > docs/asyncapi.json
	$(BIN)/weir schema metrics > docs/metrics.md
	$(BIN)/weir schema settings > docs/settings.md

dashboards: $(READY) ## Grafana's dashboards from their code: DOCS=https://where-your-docs-are/docs
	$(PYTHON) -m deploy.grafana.boards $(if $(DOCS),--docs $(DOCS))

LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
IMAGES := deploy/images

lock: ## resolve requirements.lock anew, and what the container images take of it (needs uv)
	$(LOCK) --extra embedded --extra eval --extra screen --extra dev --output-file requirements.lock pyproject.toml
	$(LOCK) -c requirements.lock --extra screen --extra openlineage --extra otel --extra redact --output-file $(IMAGES)/worker.lock pyproject.toml
	$(LOCK) -c requirements.lock --output-file $(IMAGES)/engine.lock $(IMAGES)/engine.in
	$(LOCK) -c requirements.lock --output-file $(IMAGES)/build.lock $(IMAGES)/build.in

AUDIT := .venv-audit
PIP_AUDIT := 2.10.1

audit: ## known vulnerabilities of what requirements.lock pins (needs the network)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON3) -m venv $(AUDIT) && \
		$(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT); } || true
	@PATH=$(CURDIR)/$(AUDIT)/bin:$$PATH $(PYTHON3) deploy/audit.py

clean: ## remove what was made here
	rm -rf $(VENV) $(AUDIT) .venv-vllm .kafka .tools *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

include deploy/kafka/kafka.mk
include deploy/vllm/vllm.mk
include deploy/tools/prometheus.mk
include deploy/tools/check.mk
