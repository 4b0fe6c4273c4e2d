# `make` alone lists the verbs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-integration soak mutants kafka check fmt bench bench-hot bench-instructions clean

help: ## list the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp per set of extras: an install runs again only when pyproject.toml changed.
$(VENV)/run.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench,integration,kafka,s3,sql]'
	touch $@

setup: $(VENV)/dev.stamp ## install everything the other verbs need into .venv

run: $(VENV)/run.stamp ## accept events on 127.0.0.1:8000 and ship them to ./edge-data/events (ARGS="--listen ...")
	@exec $(BIN)/edge up $(ARGS)

test: $(VENV)/dev.stamp ## the fast suite (ARGS="-k name")
	@mkdir -p .cache
	$(BIN)/python -m pytest --basetemp=.cache/pytest -n auto $(ARGS)

test-integration: $(VENV)/dev.stamp ## real SDKs in Python, Node and Chromium, kill -9 cycles, the documentation's examples, Kafka, balancers; needs what .ci/run installs
	@mkdir -p .cache
	$(BIN)/python -m pytest --basetemp=.cache/pytest-integration tests/integration -p no:randomly --override-ini='addopts=--strict-markers' -v -rA $(ARGS)

soak: $(VENV)/dev.stamp ## the long versions of what test-integration runs, with their numbers; an hour or more (ARGS="-k name")
	@mkdir -p .cache
	EDGE_SOAK=1 $(BIN)/python -m pytest --basetemp=.cache/pytest-soak tests/integration -m soak -p no:randomly --override-ini='addopts=--strict-markers' -v -s $(ARGS)

mutants: $(VENV)/dev.stamp ## plant known faults in a copy and see which test catches each
	$(BIN)/python -m tests.mutants

kafka: ## a real Kafka broker on 127.0.0.1:9092, for --to kafka://127.0.0.1:9092; needs Java 17 and Maven (ARGS="--port ...")
	@exec deploy/kafka/run $(ARGS)

check: $(VENV)/dev.stamp ## formatter, linter, strict types
	$(BIN)/ruff format --check edge bench tests
	$(BIN)/ruff check edge bench tests
	$(BIN)/mypy

fmt: $(VENV)/dev.stamp ## format and fix what can be fixed
	$(BIN)/ruff format edge bench tests
	$(BIN)/ruff check --fix edge bench tests

$(VENV)/bench.stamp: pyproject.toml | $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

# A machine without npm measures the other peers, and the benchmark says which one is missing.
.cache/bench/node/stamp: bench/peers/package.json bench/peers/package-lock.json
	@mkdir -p $(@D)
	cp $^ $(@D)
	! command -v npm >/dev/null || (cd $(@D) && npm ci --silent --no-audit --no-fund --ignore-scripts && touch stamp)

bench: $(VENV)/bench.stamp .cache/bench/node/stamp ## every benchmark; some minutes
	$(BIN)/python -m bench $(ARGS)

bench-instructions: $(VENV)/run.stamp ## instructions per request, which no other load changes, against the last figure; needs valgrind
	$(BIN)/python -m bench instructions --check --at-most 60000 $(ARGS)

bench-hot: $(VENV)/run.stamp ## CPU per request of the hot path beside a canned-reply floor, in one run
	$(BIN)/python -m bench hot $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
