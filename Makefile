.DEFAULT_GOAL := help
.PHONY: help setup test web page api demo simulate simulate-mutants chaos bench bench-wan capacity build lint fmt advisories reference fuzz test-chart test-k8s prove chart-golden chart-docs image sbom

CARGO ?= cargo
# Seconds that each fuzz target runs.
FUZZ_SECONDS ?= 60

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the tests start and use, where missing: redis-server, PostgreSQL, PgBouncer, Chromium, npm, python3-venv
	@./tests/setup

# The protocol's cores in simulated time: a crate of its own.
SIMULATION := tests/simulation/Cargo.toml
# The protocol as a model: likewise.
MODEL := tests/model/Cargo.toml
SIMULATE = $(CARGO) run --quiet --locked --manifest-path $(SIMULATION) --bin simulate --

test: setup web ## set up, then run every test: real servers, simulated ones, made-up requests, the page in a browser
	$(CARGO) test
	$(CARGO) test --locked --manifest-path $(SIMULATION)
	@# The program that the tests were run with.
	./tests/api
	./tests/page

web: web/dist/index.html ## build the page where it has changed (needs npm); the next cargo build puts it into the binary

# What is built anew is compiled in anew: it is left alone where nothing has changed.
web/dist/index.html: $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -print)
	@. ./tests/node && cd web && npm ci --no-audit --no-fund && npm run build
	@touch $@

page: web ## test the page in a browser (CHROMIUM, else /usr/bin/chromium): against a mock, and against the real server
	$(CARGO) build
	./tests/page

api: ## make requests from the API's description, wrong ones too: no answer may contradict it
	$(CARGO) build
	./tests/api

demo: ## build, and show it all on a made-up fleet until Ctrl-C (with npm: with the page)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web; else echo "npm is not there: the page at / will say how to build it"; fi
	$(CARGO) build --release
	@exec "$${CARGO_TARGET_DIR:-target}/release/telemetry" demo

bench: ## measure everything against psql in one run, and write docs/benchmarks.md (BENCH_ROWS, BENCH_RUNS)
	$(CARGO) bench --bench pipeline

bench-wan: ## measure stream over a long line, and its memory over a dead one (BENCH_ROWS, BENCH_RUNS, WAN_CUT_SECONDS)
	$(CARGO) bench --bench wan

simulate: ## run the protocol in simulated time for SECONDS (60), every step chosen by SEED; a schedule that fails is shortened and printed
	$(SIMULATE) --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

simulate-mutants: ## plant faults in the simulated protocol, one at a time, and print which invariant finds each, after how many schedules (SEED)
	$(SIMULATE) --mutants --seed $(or $(SEED),1)

# dev: the program as the tests have it, where it is built already.
CHAOS_PROFILE ?= release

chaos: ## let everything fail for CHAOS_SECONDS (600) and compare every row (SEED, CHAOS_REDIS=cluster|single, CHAOS_ONLY=kind,…)
	$(CARGO) bench --profile $(CHAOS_PROFILE) --bench chaos

capacity: ## measure what docs/capacity.md reckons with, and print its tables
	$(CARGO) bench --bench capacity

build: ## build the release binary: target/release/telemetry
	$(CARGO) build --release

lint: ## formatting, clippy, licences and bans, unused packages
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) fmt --check --manifest-path $(SIMULATION)
	$(CARGO) clippy --all-targets --locked --manifest-path $(SIMULATION) -- -D warnings
	$(CARGO) fmt --check --manifest-path $(MODEL)
	$(CARGO) clippy --all-targets --locked --manifest-path $(MODEL) -- -D warnings
	$(CARGO) deny check bans licenses sources
	$(CARGO) machete
	@if $(CARGO) tree --target all --invert aws-lc-rs >/dev/null 2>&1; then \
		echo "error: aws-lc-rs is in the tree; cargo tree --invert aws-lc-rs says who wants it" >&2; exit 1; fi

fmt: ## format the code
	$(CARGO) fmt

advisories: ## known vulnerabilities in the packages (needs the network)
	$(CARGO) deny check advisories

reference: ## write docs/reference from the code
	$(CARGO) run --quiet -- reference docs/reference

fuzz: ## run each fuzz target for FUZZ_SECONDS (needs cargo-fuzz)
	@# RUSTC_BOOTSTRAP and no sanitizer: works without a nightly toolchain.
	@for target in $$($(CARGO) fuzz list); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none "$$target" -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# pytest's arguments, such as -k alerts.
CHART_TESTS ?=

test-chart: ## install helm and the like below target/, and test the charts: renders, refusals, the real program, a real Redis Cluster
	@./tests/chart/setup
	@[ -n "$$TELEMETRY_BIN" ] || $(CARGO) build --bin telemetry
	"$${CARGO_TARGET_DIR:-target}/chart-tools/venv/bin/python" -m pytest -q -n auto --dist worksteal -p no:cacheprovider tests/chart $(CHART_TESTS)

# Names of steps (tests/k8s/steps.py), to run only up to the last of them.
K8S_STEPS ?=

test-k8s: ## install the charts on real API servers, edge and central, with pods as processes of this machine, and follow every row (as root)
	@./tests/k8s/run $(K8S_STEPS)

# Seconds that the sizes of make prove share, and how often each may come to a state: each takes about 100 bytes, and is come to a few times.
PROVE_SECONDS ?= 900
PROVE_STATES ?= 200000000

prove: ## check the protocol in every state of a model that runs the scripts and the cores that ship (PROVE_SECONDS=900, PROVE_STATES)
	@TELEMETRY_MODEL_SECONDS=$(PROVE_SECONDS) TELEMETRY_MODEL_STATES=$(PROVE_STATES) \
		$(CARGO) run --quiet --locked --manifest-path $(MODEL) -- large

chart-golden: ## write tests/chart/golden from what the charts render now
	@./tests/chart/setup
	"$${CARGO_TARGET_DIR:-target}/chart-tools/venv/bin/python" -m pytest -q -p no:cacheprovider tests/chart/test_render.py -k golden --golden

chart-docs: ## write the charts' README.md from their values
	@./tests/chart/setup
	@for chart in charts/*; do "$${CARGO_TARGET_DIR:-target}/chart-tools/bin/helm-docs" --chart-search-root $$chart --template-files README.md.gotmpl --badge-style flat; done

IMAGE ?= telemetry:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

image: ## build the container image (needs Docker with buildx): IMAGE, PLATFORMS=linux/amd64,linux/arm64 with OUTPUT=--push
	docker buildx build $(if $(PLATFORMS),--platform $(PLATFORMS)) --tag $(IMAGE) $(or $(OUTPUT),--load) .

sbom: ## write telemetry.cdx.json, the bill of materials (needs Docker with buildx)
	docker buildx build --target sbom --output type=local,dest=. .
