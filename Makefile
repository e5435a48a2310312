# Every target does its own set-up. `make` alone lists them.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-filters build filters fmt lint deny clean

export PATH := $(HOME)/.cargo/bin:$(PATH)
LOCKED := $(if $(filter true,$(CI)),--locked)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: build filters ## live EGX and ADX quotes through the edge, screened by a wasm filter
	@target/debug/bawaba demo

test: ## everything that must hold before a change lands, with the time of each stage
	@scripts/test

build: ## the edge and the channel server, to target/debug
	@scripts/setup build
	cargo build $(LOCKED) --workspace --bins

filters: ## the filters, to target/filters/*.wasm
	@scripts/setup wasm
	@scripts/build-filters

fmt: ## format all Rust sources
	cargo fmt --all

lint: ## clippy, with every warning an error
	@scripts/setup build
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

deny: ## licences, advisories and sources of every dependency (needs cargo-deny)
	@if command -v cargo-deny >/dev/null; then cargo deny --workspace check; \
	else echo "deny: skipped: cargo-deny is not installed (cargo install --locked cargo-deny)"; fi

bench: ## memory, connect time and CPU per message, beside HAProxy, nginx and Envoy
	@scripts/setup build wasm envoy bench
	@scripts/bench

bench-filters: filters ## cost of each filter per message, in our host
	for filter in license quota sharia; do \
	    cargo bench $(LOCKED) -p bawaba-filter-host --bench callbacks -- $(CURDIR)/target/filters/$$filter.wasm || exit 1; \
	done

clean: ## remove everything that was built or fetched
	cargo clean
	rm -rf .cache tests/node/node_modules
