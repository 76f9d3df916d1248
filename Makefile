# SPDX-License-Identifier: Apache-2.0
#
# `make demo` shows it, `make test` proves it. `make help` tells the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Where their own installers put Rust and Go, which root's PATH often lacks.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin

CARGO ?= cargo
GO_MODULES := examples/php-shop
# `debug` builds in a third of the time of `release`.
REMORA_PROFILE ?= debug
ifeq ($(REMORA_PROFILE),release)
profile := --release
endif
target := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# Programs for the demo and the end-to-end tests.
bins := $(target)/$(REMORA_PROFILE)
shop := $(bins)/remora-php-shop-demo

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Installs what the demo needs and is missing (as root)
	@scripts/setup.sh

.PHONY: setup-tests
setup-tests: ## The same for the tests: also Envoy, to compare with
	@scripts/setup.sh --tests

.PHONY: build
build: ## Builds all programs (REMORA_PROFILE=release for fast ones)
	$(CARGO) build --workspace --bins $(profile)

# Without root nothing of the demo works: better to hear it before the build than after.
.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { \
	  echo "this needs root, for network namespaces and redirection: sudo env PATH=\"\$$PATH\" make $(MAKECMDGOALS)" >&2; \
	  exit 1; }

.PHONY: demo
demo: root setup build ## The demo: a PHP page and its services, six steps, about a minute
	@$(shop) run

.PHONY: demo-quick
demo-quick: root setup build
	@$(shop) run --quick

.PHONY: up
up: root setup build ## Raises the demo's mesh to play with and tells what to try
	@$(shop) up

.PHONY: down
down: root ## Takes it away, with whatever crashed runs left
	@if [ -x $(shop) ]; then $(shop) down; \
	 else $(CARGO) build -q -p remora-php-shop-demo $(profile) && $(shop) down; fi

# The demo uses what the tests were built with: `build` would build much of it again, since features
# that only tests ask for are left out there.
.PHONY: test
test: setup-tests fmt-check lint doc check-docs go-check e2e-ready build-all ## Everything that proves the project (as root)
	@status=0; \
	 [ "$${REMORA_SKIP_NETNS:-}" = 1 ] || $(target)/debug/remora-php-shop-demo run --quick || status=$$?; \
	 $(CARGO) test --workspace --no-fail-fast || status=$$?; \
	 exit $$status

.PHONY: build-all
build-all:
	$(CARGO) build --workspace --all-targets

.PHONY: e2e-ready
e2e-ready:
	@[ "$$(id -u)" = 0 ] || [ "$${REMORA_SKIP_NETNS:-}" = 1 ] || { \
	  echo "the end-to-end tests need root: sudo env PATH=\"\$$PATH\" make test (REMORA_SKIP_NETNS=1 leaves them out)" >&2; \
	  exit 1; }

.PHONY: check
check: ## Compiles, no more
	$(CARGO) check --workspace --all-targets

.PHONY: lint
lint: ## Clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## Formats all code
	$(CARGO) fmt --all
	for module in $(GO_MODULES); do (cd $$module && gofmt -w .); done

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check
	@for module in $(GO_MODULES); do \
	  unformatted=$$(cd $$module && gofmt -l .); \
	  [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }; done

.PHONY: doc
doc: ## The crates' documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

.PHONY: check-docs
check-docs: ## Every file that the documents name exists
	@scripts/check-docs.sh

.PHONY: go-check
go-check: ## The Go programs of the examples: vet and build
	@for module in $(GO_MODULES); do (cd $$module && go vet ./... && go build -o /dev/null ./...) || exit 1; done

.PHONY: e2e
e2e: setup-tests e2e-ready build-all ## The end-to-end tests alone (as root)
	$(CARGO) test -p remora-tests -p remora-testkit --no-fail-fast

.PHONY: deny
deny: ## Licences, advisories, duplicates (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "install it first: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --workspace check

.PHONY: clean
clean: ## Removes what was built
	$(CARGO) clean
