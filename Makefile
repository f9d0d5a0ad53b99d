# `make` needs nothing but python3 (3.11, 3.12 or 3.13); it installs the rest into .venv.
.DEFAULT_GOAL := help
.PHONY: help install docs run test .test-sessions-1 .test-sessions-2 .test-units .test-stacks .test-rest test-clients test-node test-browser fleet faults faults-full \
	relay-faults lifecycle versions previous canary rolling slow-clients leaks renewals catalogue state-machine fuzz bench lint format contracts lint-contracts \
	images sbom test-images lint-containers lint-deploy prometheus-rule lint-monitoring monitoring staged-failures lock lock-bench clean

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first Python that fits, that of .venv if there is one; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(shell for p in .venv/bin/python python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
SESSIONS_TESTS := tests/service/sessions
UNIT_TESTS := tests/unit tests/contract tests/state_machine tests/faults tests/service/gateway
STACK_TESTS := tests/e2e tests/fuzz
CLIENTS_TESTS := tests/clients
BROWSER_TESTS := tests/browser
IMAGES_TESTS := tests/images
LIFECYCLE_TESTS := tests/lifecycle
KUBERNETES_TESTS := tests/deploy/kubernetes
PROMTOOL_TESTS := tests/monitoring
SPECTRAL := tools/contracts
UV_COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' --build-constraints requirements/bootstrap.lock $(UPGRADE)
LOCAL_PACKAGES := $(foreach name,proxy-router-sim morpheus-common morpheus-devstack morpheus-gateway morpheus-auth \
	morpheus-sessions morpheus-automation morpheus-site,--no-emit-package $(name))

# An operator's command makes no traces, and its image has 120 MB: what exports them stays out.
WITHOUT_EXPORT := $(foreach name,opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common \
	opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk \
	opentelemetry-semantic-conventions googleapis-common-protos protobuf requests urllib3 certifi charset-normalizer,--no-emit-package $(name))

SITE := services/gateway/morpheus_gateway/site/manifest.json
# What the pages are made of; docs/openapi.json stands for the routes. Folders are named for what is taken out of them.
SITE_SOURCES := $(shell find docs/.; find libs/site -type f -not -name '*.pyc'; ls CHANGELOG.md CONTRIBUTING.md \
	services/*/morpheus_*/settings.py libs/common/morpheus_common/settings.py libs/common/morpheus_common/errors.py \
	libs/common/morpheus_common/contracts/*.py libs/common/morpheus_common/bus/names.py libs/devstack/morpheus_devstack/*.py)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: ## Make .venv as the lock files say (nothing to do: well under a second)
	@python="$(PYTHON)"; \
	test -n "$$python" || { echo "make: Python 3.11, 3.12 or 3.13 is needed and none was found as python3, python3.13, python3.12 or python3.11; make PYTHON=/path/to/python $@" >&2; exit 1; }; \
	"$$python" requirements/install.py

docs: install $(SITE) ## Build the documentation that the gateway serves at /docs (nothing to do: well under a second)

$(SITE): $(SITE_SOURCES) | install
	@$(BIN)/python -m morpheus_site $(if $(PARTIAL),--partial)

run: install docs ## Start the whole system on this machine and show one streamed answer (Ctrl-C stops it)
	@$(BIN)/morpheus up

test: install docs ## Run all tests, in five parts at once: they wait more than they reckon
	@$(MAKE) --no-print-directory -j5 .test-sessions-1 .test-sessions-2 .test-units .test-stacks .test-rest

.test-sessions-1:
	@$(BIN)/python -m pytest $(wildcard $(SESSIONS_TESTS)/test_[a-o]*.py)

.test-sessions-2:
	@$(BIN)/python -m pytest $(wildcard $(SESSIONS_TESTS)/test_[p-z]*.py)

.test-units:
	@$(BIN)/python -m pytest $(UNIT_TESTS)

.test-stacks:
	@$(BIN)/python -m pytest $(STACK_TESTS)

.test-rest:
	@$(BIN)/python -m pytest tests $(addprefix --ignore ,$(SESSIONS_TESTS) $(UNIT_TESTS) $(STACK_TESTS) $(CLIENTS_TESTS) $(BROWSER_TESTS) \
		$(IMAGES_TESTS) $(LIFECYCLE_TESTS) $(KUBERNETES_TESTS) $(PROMTOOL_TESTS))

test-clients: install ## OpenAI's Python SDK, LangChain, curl and the documentation's examples against a running stack
	@command -v curl > /dev/null || { echo "make: $@ needs curl (Debian and Ubuntu: apt install curl)" >&2; exit 1; }
	@$(BIN)/python requirements/install.py clients
	@$(BIN)/python -m pytest $(CLIENTS_TESTS) --ignore-glob '*_node.py'

test-node: install ## OpenAI's Node SDK, the Vercel AI SDK and the documentation's examples against a running stack (needs Node 20 or newer, and npm)
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' && command -v npm > /dev/null || { \
		echo "make: $@ needs Node 20 or newer, with npm, on PATH" >&2; exit 1; }
	@npm ci --prefix $(CLIENTS_TESTS)/node --no-audit --no-fund --silent
	@$(BIN)/python -m pytest $(CLIENTS_TESTS)/test_node.py $(CLIENTS_TESTS)/test_snippets_node.py

test-browser: install docs ## The documentation in Chromium: what it shows, finds, asks and sends, by axe and on a phone (needs Node 20 or newer, npm and chromium)
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' && command -v npm chromium > /dev/null || { \
		echo "make: $@ needs Node 20 or newer with npm, and Chromium (Debian: apt install chromium), on PATH" >&2; exit 1; }
	@npm ci --prefix $(BROWSER_TESTS)/node --no-audit --no-fund --silent
	@$(BIN)/python -m pytest $(BROWSER_TESTS)

faults: install ## Strike processes at every step of opening, closing and prompts; services, bus and database under load (FAULTS=short: some)
	@$(BIN)/python -m tests.faults --select $(or $(FAULTS),pairs) --stacks 3 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.chat --select $(or $(FAULTS),full) --stacks 3 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.servers --select $(or $(FAULTS),full) --seed $(or $(SEED),1)

faults-full: install ## The same with every fault, outcome and wish at every step: hours
	@$(BIN)/python -m tests.faults --select full --stacks 4 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.chat --stacks 4 --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.servers --seed $(or $(SEED),1)

lifecycle: install ## Start parts in every order, lose the bus with its data, put the database back: minutes (SHORT=1: one order)
	@$(BIN)/python -m pytest -q --timeout 600 $(LIFECYCLE_TESTS) $(if $(SHORT),-k "not mongo-router-nats and not router-nats-mongo")

versions: install ## Run the previous version's processes beside these, both ways and mixed (SHORT=1: one user at a time)
	@$(BIN)/python -m tests.versions $(if $(SHORT),--short)

previous: install ## Make a commit the previous version, at a release: make previous COMMIT=v1.2.0
	@$(BIN)/python -m tests.versions --record $(or $(COMMIT),$(error make: previous needs COMMIT, the commit that was released))

canary: install ## Send 100,000 prompts of 64 keys while parts fail: make canary REQUESTS=1000000; 0 foreign bytes
	@$(BIN)/python -m tests.load --requests $(or $(REQUESTS),100000) --kill-every $(or $(KILL_EVERY),30) --seed $(or $(SEED),1)

rolling: install ## Restart all processes of all services, one by one, under 200 streams (STREAMS=40: in a minute); none is cut
	@$(BIN)/python -m tests.load.rolling --streams $(or $(STREAMS),200) --seed $(or $(SEED),1)

slow-clients: install ## Attack a gateway with slow headers, bodies and readers; others must not notice: ten minutes (SHORT=1: under one)
	@$(BIN)/python -m tests.load.slow_clients $(if $(SHORT),--short)

leaks: install ## Have 100 clients leave at each place a prompt can be, in both modes; nothing stays
	@DISCONNECTS=100 $(BIN)/python -m pytest -q --timeout 600 tests/service/leaving/test_disconnects.py

fleet: OPENS ?= 1000
fleet: WORKERS ?= 2,4
fleet: install ## Open 1,000 sessions of 1,000 keys over four routers, with two and with four workers
	@FLEET_OPENS=$(OPENS) FLEET_WORKERS=$(WORKERS) $(BIN)/python -m pytest -q -s tests/service/sessions/test_fleet_load.py

renewals: install ## Kill and pause automation workers under prompts for long: make renewals ROUNDS=30
	@RENEWAL_ROUNDS=$(or $(ROUNDS),30) $(BIN)/python -m pytest -q tests/service/sessions/test_automatic_renewal.py

catalogue: install ## Read and serve a market of 10,000 models and 100,000 bids (MODELS=1000 BIDS=10000 PROVIDERS=20: seconds)
	@$(BIN)/python -m tests.load.catalogue --models $(or $(MODELS),10000) --bids $(or $(BIDS),100000) --providers $(or $(PROVIDERS),200)

relay-faults: install ## Every fault of a provider at every chunk of an answer, held against golden files: about 30 s
	@$(BIN)/python -m pytest -q tests/service/relay --every-chunk $(GOLDEN)

state-machine: install ## Run random orders of commands, faults and crashes for long: make state-machine EXAMPLES=20000 SEED=7
	@$(BIN)/python -m tests.state_machine --processes 2 --examples $(or $(EXAMPLES),4000) --seed $(or $(SEED),1)

fuzz: install ## Send 50,000 cases of schemathesis and attacks of our own at the whole HTTP API: make fuzz CASES=2000 SEED=7
	@$(BIN)/python -m tests.fuzz --cases $(or $(CASES),50000) --seed $(or $(SEED),1)

bench: install ## Measure every bar beside the floor, LiteLLM and Portkey; write docs/benchmarks.md (SHORT=1: a minute; FULL=1: 30)
	@$(BIN)/python -m benchmarks --form $(if $(FULL),full,$(if $(SHORT),short,default))

lint: install ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: install ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

contracts: install ## Write docs/openapi.json and docs/asyncapi.json anew, after a route or a contract of the bus changed
	@$(BIN)/python -m morpheus_gateway.openapi
	@$(BIN)/python -m morpheus_common.asyncapi

lint-deploy: install lint-containers lint-monitoring ## Lint and check what deploys the gateway: images, compose file, manifests of Kubernetes, alerts
	@$(BIN)/python requirements/install.py deploy
	@.venv-deploy/bin/yamllint --strict --config-file tools/deploy/yamllint.yaml deploy/k8s
	@$(BIN)/python -m pytest -q --timeout 600 $(KUBERNETES_TESTS)

prometheus-rule: ## Write the Prometheus operator's form of deploy/monitoring/alerts.yaml anew, after an alert changed
	@{ printf '%s\n' '# Made by `make prometheus-rule` from deploy/monitoring/alerts.yaml: change that.' \
		'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: morpheus' 'spec:'; \
		sed -n '/^groups:/,$$p' deploy/monitoring/alerts.yaml | sed 's/^\(.\)/  \1/'; \
	} > deploy/k8s/components/monitoring/prometheus-rule.yaml

lint-contracts: ## Lint docs/openapi.json and docs/asyncapi.json with Spectral (needs Node 20.17 or newer, and npm)
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 17) ? 0 : 1)' && command -v npm > /dev/null || { \
		echo "make: $@ needs Node 20.17 or newer, with npm, on PATH" >&2; exit 1; }
	@npm ci --prefix $(SPECTRAL) --ignore-scripts --no-audit --no-fund --silent
	@for document in openapi asyncapi; do $(SPECTRAL)/node_modules/.bin/spectral lint --fail-severity hint \
		--ruleset $(SPECTRAL)/$$document.yaml docs/$$document.json || exit 1; done

images: install ## Build the container images: make images ENGINE=podman BASE_IMAGE=… NETWORK=host TARGETS="gateway ops" RELEASE=1
	@$(BIN)/python -m deploy.docker.images --engine "$(or $(ENGINE),docker)" $(if $(BASE_IMAGE),--base-image "$(BASE_IMAGE)") \
		$(if $(NETWORK),--network $(NETWORK)) $(if $(RELEASE),--release) $(TARGETS)

sbom: install ## List what is in each image as CycloneDX documents, in .sbom (from the locks, without network)
	@$(BIN)/python requirements/install.py deploy
	@.venv-deploy/bin/python -m deploy.docker.sbom .sbom 3.13

test-images: install ## Build the images twice and run the system of them: make test-images ENGINE=docker BASE_IMAGE=… (needs a container engine)
	@ENGINE="$(or $(ENGINE),docker)" BASE_IMAGE="$(BASE_IMAGE)" NETWORK="$(NETWORK)" $(BIN)/python -m pytest -q -s --timeout 3000 $(IMAGES_TESTS)

lint-containers: install ## Lint Dockerfile and docker-compose.yml (needs Node 20.19 or newer, and npm)
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' && command -v npm > /dev/null || { \
		echo "make: $@ needs Node 20.19 or newer, with npm, on PATH" >&2; exit 1; }
	@$(BIN)/python requirements/install.py deploy
	@npm ci --prefix tools/compose --ignore-scripts --no-audit --no-fund --silent
	.venv-deploy/bin/hadolint --failure-threshold style deploy/docker/Dockerfile
	.venv-deploy/bin/yamllint --strict --config-file deploy/docker/yamllint.yaml docker-compose.yml deploy/docker tools/compose/dclint.yaml \
		tools/compose/compose-lint.yaml
	.venv-deploy/bin/compose-lint check --quiet --skip-suppressed --no-env --strict-config --config tools/compose/compose-lint.yaml --fail-on medium docker-compose.yml
	tools/compose/node_modules/.bin/dclint --config tools/compose/dclint.yaml --max-warnings 0 docker-compose.yml

lint-monitoring: install ## Check alerts, their cases and the dashboards' queries with promtool (Debian: apt install prometheus)
	@command -v promtool > /dev/null || { echo "make: $@ needs promtool on PATH (Debian and Ubuntu: apt install prometheus)" >&2; exit 1; }
	@cd deploy/monitoring && promtool check config prometheus.yml && promtool test rules alerts_test.yaml
	@$(BIN)/python -m pytest -q $(PROMTOOL_TESTS)

staged-failures: install ## Have router, chain, bus, database and clients fail in turn, and tell each by its alerts (needs promtool): two minutes (SHORT=1: a minute)
	@command -v promtool > /dev/null || { echo "make: $@ needs promtool on PATH (Debian and Ubuntu: apt install prometheus)" >&2; exit 1; }
	@$(BIN)/python -m tests.monitoring.staged $(if $(SHORT),--short) --seed $(or $(SEED),1)

monitoring: install ## Write the dashboards of Grafana anew, after deploy/monitoring/dashboards.py changed
	@$(BIN)/python -m deploy.monitoring.dashboards

lock: install ## Write requirements/*.lock anew (make lock UPGRADE=--upgrade takes newer versions)
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' $(UPGRADE) requirements/bootstrap.in -o requirements/bootstrap.lock
	$(UV_COMPILE) $(LOCAL_PACKAGES) --constraints requirements/bootstrap.lock --group pyproject.toml:dev \
		--extra stack libs/*/pyproject.toml services/*/pyproject.toml -o requirements/dev.lock
	@for part in services/gateway services/auth services/sessions services/automation ops:libs/devstack \
		simulator:libs/proxy_router_sim libs/site; do folder=$${part#*:}; name=$$(basename $${part%%:*}); \
		if [ $$name = ops ]; then without="$(WITHOUT_EXPORT)"; else without=; fi; \
		echo "requirements/$$name.lock"; $(UV_COMPILE) $(LOCAL_PACKAGES) $$without --constraints requirements/dev.lock \
			$$folder/pyproject.toml -o requirements/$$name.lock || exit 1; done
	@for apart in clients deploy; do echo "requirements/$$apart.lock"; $(UV_COMPILE) --constraints requirements/bootstrap.lock \
		requirements/$$apart.in -o requirements/$$apart.lock || exit 1; done

# Dependencies of the peers are those of their time: with what came later they were never tested.
lock-bench: install ## Write the locks of what `make bench` measures us against
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock-bench' --exclude-newer 2026-01-25 \
		benchmarks/peers/litellm.in -o benchmarks/peers/litellm.lock
	npm install --prefix benchmarks --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund

clean: ## Remove .venv and all caches (the data in .data stays)
	rm -rf .venv .venv-clients .venv-deploy tests/clients/node/node_modules tests/browser/node/node_modules tools/*/node_modules benchmarks/node_modules benchmarks/.work/litellm
	rm -rf .site .sbom services/gateway/morpheus_gateway/site
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find libs services tests examples benchmarks requirements -name __pycache__ -type d -prune -exec rm -rf {} +
