# Two commands matter: `make run` and `make test`. Both install what they need, given Rust, Python 3, make and a C compiler.

CARGO ?= cargo
# What /version tells; empty where the sources are no checkout.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

SOAK_SECONDS ?= 600

.PHONY: help run test screenshots soak test-asan lint bench bench-peers bench-pipeline bench-results bench-uploads build dist test-dist container deploy undeploy rehearse install-lint

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: ## Build, and serve on http://127.0.0.1:8080 with the data in ./imgcls-data and the best model that can be had; MODEL=name or directory chooses, or the configuration
	$(CARGO) build --release --locked
	@model='$(MODEL)'; [ -n "$$model" ] || model=$$(target/release/imgcls model best) || exit; \
	exec target/release/imgcls serve --model "$$model"

test: ## All tests
	$(CARGO) test --locked --workspace

screenshots: ## The README's pictures of the page, anew; PHOTOS=directory for the one of photos
	PHOTOS='$(PHOTOS)' $(CARGO) test --locked --test it browser::pictures:: -- --ignored --nocapture

soak: ## Ten minutes of whatever can befall the system; SOAK_SECONDS=… for as long, SOAK_SEED=… to repeat a schedule
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test it soak:: -- --nocapture

test-asan: ## Tests of the network's kernels under AddressSanitizer; builds nothing else
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address $(CARGO) test --locked --package imgcls-compute --target $(HOST)

lint: install-lint ## Formatting, clippy, documentation, layers, licences, sources and advisories of dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	$(CARGO) deny check bans licenses sources
	python3 tests/layers.py --circles
	python3 tests/unused.py
	@if $(CARGO) deny fetch db; then $(CARGO) deny check --disable-fetch advisories; \
		else echo "lint: the advisory database cannot be had here; advisories are NOT checked" >&2; fi

bench: ## Layers and the whole network against this machine's peak
	$(CARGO) bench --locked --bench kernel

bench-peers: ## Side by side with ONNX Runtime, OpenVINO, MNN and candle, in one run
	python3 tests/peers/bench.py

bench-pipeline: ## From photos to labels, side by side with scripts of Pillow, ONNX Runtime and OpenVINO
	python3 tests/peers/pipeline.py

bench-results: ## A million results by HTTP: pages, searches, counts
	$(CARGO) build --release --locked
	python3 tests/peers/results.py target/release/imgcls

bench-uploads: ## Files a second of uploads, side by side with dufs and miniserve; needs wrk
	python3 tests/peers/uploads.py

install-lint:
	@command -v cargo-deny >/dev/null || $(CARGO) install --debug --locked cargo-deny --version ^0.18

build: ## The binary, in target/release; MODEL=name or directory embeds another model
	IMGCLS_EMBED='$(MODEL)' $(CARGO) build --release --locked

# What is shipped does not tell where it was built.
CARGO_HOME ?= $(HOME)/.cargo
TARGET_DIR = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
RUST_SOURCES = $(shell rustc --print sysroot)/lib/rustlib/src/rust
REMAP = $(RUST_SOURCES)=/rustc $(CARGO_HOME)=/cargo $(CURDIR)=/imgcls $(TARGET_DIR)=/target
# What `make dist` builds for. Another machine's is cross-compiled by Debian's compiler for it, whose name is that of the target.
TARGET ?= $(HOST)
DIST = $(TARGET_DIR)/$(TARGET)/dist
ifneq ($(TARGET),$(HOST))
export CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_LINKER = $(subst -unknown,,$(TARGET))-gcc
endif
# The time of all files in what is shipped: the commit's.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# Without this, what makes random numbers looks for the system's function by its name, which a static binary has not, and then for
# /dev, which an empty root has not.
DIST_RUSTFLAGS = -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"

dist: ## The binary as it is shipped, static and optimised as a whole, and the archive with it; MODEL= as for build, TARGET=aarch64-unknown-linux-gnu for another machine
	IMGCLS_EMBED='$(MODEL)' IMGCLS_COMMIT='$(COMMIT)' RUSTFLAGS='$(DIST_RUSTFLAGS)' \
	RUSTC_WRAPPER=$(CURDIR)/config/rustc.sh IMGCLS_RUSTC_FLAGS="$(REMAP:%=--remap-path-prefix=%)" CFLAGS="$(REMAP:%=-ffile-prefix-map=%)" \
	$(CARGO) build --profile dist --locked --target $(TARGET)
	python3 config/package.py $(TARGET) $(DIST)/imgcls $(DIST)

test-dist: ## Tests of what `make dist` made: in empty roots, in a container, the archive, the command line
	IMGCLS_TEST_BINARY=$(DIST)/imgcls $(CARGO) test --locked --test it -- dist:: classify:: cli::

container: dist ## An image with the shipped binary alone, imgcls:VERSION, by buildah
	install -D -m 755 -t $(DIST)/container $(DIST)/imgcls
	mkdir -p $(DIST)/container/data
	buildah build --isolation chroot --format docker --timestamp $(SOURCE_DATE_EPOCH) --file config/container/Containerfile \
		--tag imgcls:$$($(DIST)/imgcls --version | cut -d ' ' -f 2) $(DIST)/container

# What `make deploy` deploys; any imgcls for x86-64 Linux that needs no libraries will do.
BINARY = $(DIST)/imgcls
STACK = imgcls

deploy: dist ## To AWS: make deploy STACK=photos PARAMETERS="DomainName=photos.example.com HostedZoneId=Z…"
	config/deploy.sh --stack $(STACK) --binary $(BINARY) $(PARAMETERS)

undeploy: ## Off AWS, with all data; asks
	config/undeploy.sh --stack $(STACK)

rehearse: ## A whole deployment without AWS: 2,136 images, machines that are lost, a new version in the middle; draws the chart
	$(CARGO) test --locked --test it the_originals_largest_run_is_rehearsed -- --ignored --nocapture
