# `make` needs nothing but python3 (3.11, 3.12 or 3.13); it installs the rest into .venv.
.DEFAULT_GOAL := help
.PHONY: help install run test .test-sessions .test-rest fleet faults faults-full canary rolling leaks state-machine lint format contracts lock clean

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first Python that fits, that of .venv if there is one; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(shell for p in .venv/bin/python python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
SESSIONS_TESTS := tests/service/sessions
UV_COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' --build-constraints requirements/bootstrap.lock $(UPGRADE)
LOCAL_PACKAGES := $(foreach name,proxy-router-sim morpheus-common morpheus-devstack morpheus-gateway morpheus-auth \
	morpheus-sessions morpheus-automation,--no-emit-package $(name))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: ## Make .venv as the lock files say (nothing to do: well under a second)
	@python="$(PYTHON)"; \
	test -n "$$python" || { echo "make: Python 3.11, 3.12 or 3.13 is needed and none was found as python3, python3.13, python3.12 or python3.11; make PYTHON=/path/to/python $@" >&2; exit 1; }; \
	"$$python" requirements/install.py

run: install ## Start the whole system on this machine and show one streamed answer (Ctrl-C stops it)
	@$(BIN)/morpheus up

test: install ## Run all tests, those of the sessions service beside the rest
	@$(MAKE) --no-print-directory -j2 .test-sessions .test-rest

.test-sessions:
	@$(BIN)/python -m pytest $(SESSIONS_TESTS)

.test-rest:
	@$(BIN)/python -m pytest tests --ignore $(SESSIONS_TESTS)

faults: install ## Kill, pause, cut off and deafen processes at every step of opening, closing and prompts (FAULTS=short: some)
	@$(BIN)/python -m tests.faults --select $(or $(FAULTS),pairs) --stacks 3 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.chat --select $(or $(FAULTS),full) --stacks 3 --seed $(or $(SEED),1)

faults-full: install ## The same with every fault, outcome and wish at every step: hours
	@$(BIN)/python -m tests.faults --select full --stacks 4 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.chat --stacks 4 --seed $(or $(SEED),1)

canary: install ## Send 100,000 prompts of 64 keys while parts fail: make canary REQUESTS=1000000; 0 foreign bytes
	@$(BIN)/python -m tests.load --requests $(or $(REQUESTS),100000) --kill-every $(or $(KILL_EVERY),30) --seed $(or $(SEED),1)

rolling: install ## Restart all gateways and session workers, one by one, under 200 streams (STREAMS=40: in a minute); none is cut
	@$(BIN)/python -m tests.load.rolling --streams $(or $(STREAMS),200) --seed $(or $(SEED),1)

leaks: install ## Have 100 clients leave at each place a prompt can be, in both modes; nothing stays
	@DISCONNECTS=100 $(BIN)/python -m pytest -q --timeout 600 tests/service/relay/test_disconnects.py

fleet: OPENS ?= 1000
fleet: WORKERS ?= 2,4
fleet: install ## Open 1,000 sessions of 1,000 keys over four routers, with two and with four workers
	@FLEET_OPENS=$(OPENS) FLEET_WORKERS=$(WORKERS) $(BIN)/python -m pytest -q -s tests/service/sessions/test_fleet_load.py

state-machine: install ## Run random orders of commands, faults and crashes for long: make state-machine EXAMPLES=20000 SEED=7
	@$(BIN)/python -m tests.state_machine --processes 2 --examples $(or $(EXAMPLES),4000) --seed $(or $(SEED),1)

lint: install ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: install ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

contracts: install ## Write docs/asyncapi.json anew, after a contract of the bus changed
	@$(BIN)/python -m morpheus_common.asyncapi

lock: install ## Write requirements/*.lock anew (make lock UPGRADE=--upgrade takes newer versions)
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' $(UPGRADE) requirements/bootstrap.in -o requirements/bootstrap.lock
	$(UV_COMPILE) $(LOCAL_PACKAGES) --constraints requirements/bootstrap.lock --group pyproject.toml:dev \
		libs/*/pyproject.toml services/*/pyproject.toml -o requirements/dev.lock
	@for service in gateway auth sessions automation; do echo "requirements/$$service.lock"; \
		$(UV_COMPILE) $(LOCAL_PACKAGES) --constraints requirements/dev.lock \
			services/$$service/pyproject.toml -o requirements/$$service.lock || exit 1; done

clean: ## Remove .venv and all caches (the data in .data stays)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find libs services tests examples requirements -name __pycache__ -type d -prune -exec rm -rf {} +
