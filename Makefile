# Two commands set banger up: `make run` and `make test`. The rest is for people who work on it.

TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/dist/release
PREFIX ?= $(HOME)/.local
DESTDIR ?=
XTASK := cargo run --quiet -p xtask --
# What is measured in it (decoders) is to be as fast as it can be.
BENCH := cargo run --quiet --release -p xtask --

.DEFAULT_GOAL := help
.PHONY: help run test setup build bench boots dist install kernel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Install what is missing, build, and boot a microVM that says `uname -a`
	@scripts/run.sh $(BIN)

test: ## Install what is missing and run every test, real boots included
	@scripts/setup.sh --test
	@scripts/test.sh

setup: ## Install what is missing on this machine
	@scripts/setup.sh

build: setup ## Build every program (release) into target/dist/release
	@scripts/build.sh release

bench: build ## Measure against bare QEMU, ssh and process start; JSON and a table of ratios
	@BANGER_BIN_DIR=$(abspath $(BIN)) $(BENCH) bench --out $(TARGET)/bench.json

boots: build ## Boot 50 throw-away VMs one after the other; fail with the first that hangs
	@BANGER_BIN_DIR=$(abspath $(BIN)) $(XTASK) boots 50

dist: build ## Pack programs, man pages and completions into dist/
	@$(XTASK) dist --bin-dir $(BIN)

install: build ## Install programs, man pages, completions and unit files under PREFIX (~/.local)
	@$(XTASK) install --bin-dir $(BIN) --prefix $(PREFIX) --destdir $(or $(DESTDIR),/)

kernel: ## Build generic-6.12 from kernel.org, or from the distribution's source, into build/manual/generic-kernel
	@scripts/make-generic-kernel.sh --auto

clean: ## Remove what was built here (VMs, images and kernels stay)
	cargo clean
	rm -rf dist
