# What people and CI run. Everything installs what it needs on Debian or Ubuntu.

SHELL := bash
CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: help build demo down test lint unit etcd e2e doc bench deps images clean sim faults

help: ## List the targets
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 18

build: ## Build target/release/skiff and target/release/skiffctl
	$(CARGO) build --release --bin skiff --bin skiffctl

demo: deps ## Build everything and walk through the guestbook on a new cluster
	@scripts/demo

down: ## Remove the demo's cluster and prove that nothing is left
	@scripts/down

test: deps images lint doc unit etcd e2e ## Everything CI checks

lint: ## Formatting, and clippy with warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: ## Unit and integration tests of every crate but the end-to-end ones
	$(CARGO) test --workspace --exclude skiff-tests --exclude skiff-bench

sim: ## Simulate groups of masters and their faults: make sim SEEDS=N [FROM=SEED]
	SKIFF_SIM_SEEDS=$(or $(SEEDS),2000) SKIFF_SIM_FROM=$(or $(FROM),0) $(CARGO) test -p skiff-store --lib sim::no_seed -- --nocapture

faults: build ## Real masters killed, paused, cut off and out of disk: make faults [SECONDS=600] [ROUNDS=200] [SEED=N]
	SKIFF_FAULT_SECONDS=$(or $(SECONDS),600) SKIFF_KILL_ROUNDS=$(or $(ROUNDS),200) $(if $(SEED),SKIFF_FAULT_SEED=$(SEED)) \
		$(CARGO) test -p skiff-tests --test faults -- --test-threads=1 --nocapture

etcd: ## The store's and the API server's tests on Debian's etcd-server
	SKIFF_NEED_ETCD=1 $(CARGO) test -p skiff-store --test store --test etcd
	SKIFF_NEED_ETCD=1 SKIFF_TEST_STORE=etcd $(CARGO) test -p skiff-apiserver --tests

e2e: build ## End-to-end tests: real binaries, real kubectl, real Docker
	$(CARGO) test -p skiff-tests -- --test-threads=1

doc: ## API documentation with warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: deps images build ## Measure; bench/README.md says what and records results
	$(CARGO) run --release -p skiff-bench --bin up
	$(CARGO) run --release -p skiff-bench --bin pods
	$(CARGO) run --release -p skiff-bench --bin store
	$(CARGO) run --release -p skiff-bench --bin api
	$(CARGO) run --release -p skiff-bench --bin failover
	$(CARGO) run --release -p skiff-bench --bin idle

deps:
	@scripts/install-deps

images:
	@scripts/build-images
