# The commands of the project. Downloads and builds are kept in the user's cache folder.
export CNCLIP_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cnclip
export CARGO_TARGET_DIR ?= $(CNCLIP_CACHE)/target
export PYTHONPATH := $(CURDIR)/packaging:$(CURDIR)/tests
export VERSION := $(shell sed -n '/workspace.package/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
PYTHON := python3 -u

.PHONY: help demo ablation test check fuzz lint images cuda cuda-image gpu-check push cluster clean-cluster bed clean-bed
help:
	@echo "make demo           train and evaluate a small Chinese-CLIP on a new local cluster (KEEP=1 keeps it running,"
	@echo "                    CLUSTER=current uses the cluster of your kubeconfig instead)"
	@echo "make ablation       the paper's ablation in miniature: from scratch, without the first stage, in two stages"
	@echo "make test           all tests, including the end-to-end tests on a new local cluster"
	@echo "make check          all checks and tests that need neither root nor a cluster"
	@echo "make fuzz           search one parser for inputs that break it: TARGET=pickle SECONDS=3600 (tests/fuzz/README.md)"
	@echo "make lint           format, lints, links in the documentation and licenses only"
	@echo "make images         the images of operator and trainer, as OCI archives in target/images"
	@echo "make cuda           the trainer for NVIDIA GPUs and its device tests, in target/cuda"
	@echo "make cuda-image     the image trainer-cuda: that program and NVIDIA's libraries, as an OCI archive in target/images"
	@echo "make gpu-check      tests, a training and benchmarks on this machine's GPU (PROGRAM= and TESTS= name what"
	@echo "                    make cuda built elsewhere, ARGUMENTS= are described in docs/gpu.md)"
	@echo "make push           build all images with docker and push them to IMAGE_REGISTRY"
	@echo "make cluster        start the local cluster and leave it running"
	@echo "make clean-cluster  stop that cluster and delete its data"

demo:
	@$(PYTHON) -m demo

ablation:
	@$(PYTHON) -m demo.ablation

test:
	@$(PYTHON) -m suite

check:
	@$(PYTHON) -m suite --no-cluster

# libFuzzer's flags as `cargo fuzz` sets them, without sanitizers, which need a nightly compiler; arithmetic that overflows
# and debug assertions of dependencies are findings. With --target, so that build scripts are not instrumented.
SECONDS ?= 60
FUZZ_HOST := x86_64-unknown-linux-gnu
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks -Cdebug-assertions
fuzz:
	@test -d "tests/fuzz/corpus/$(TARGET)" -a -n "$(TARGET)" || \
	    { echo "error: set TARGET to one of:" $$(ls tests/fuzz/corpus); exit 64; }
	@mkdir -p target/fuzz/$(TARGET)/corpus
	RUSTFLAGS="$(FUZZ_FLAGS)" CNCLIP_FUZZ_TARGET=$(TARGET) cargo run --release --locked --target $(FUZZ_HOST) \
	    --package cnclip-fuzz --features libfuzzer --bin fuzz -- \
	    -max_total_time=$(SECONDS) -timeout=30 -rss_limit_mb=6000 -artifact_prefix=target/fuzz/$(TARGET)/ \
	    $(or $(INPUT),target/fuzz/$(TARGET)/corpus tests/fuzz/corpus/$(TARGET))

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release -- -D warnings
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" cargo doc --workspace --release --no-deps --document-private-items
	packaging/cargo-deny/run --locked check licenses bans sources

images:
	@$(PYTHON) -m cnclip_build images

cuda:
	@$(PYTHON) -m cnclip_build cuda

cuda-image:
	@$(PYTHON) -m cnclip_build image-cuda

PROGRAM ?= target/cuda/cnclip
TESTS ?= target/cuda/device-tests
PAIRS ?= target/cuda/emoji
gpu-check:
	@$(PYTHON) tests/gpu/check.py --program $(PROGRAM) --tests $(TESTS) --pairs $(PAIRS) $(ARGUMENTS)

push:
	@test -n "$(IMAGE_REGISTRY)" || { echo "error: set IMAGE_REGISTRY, for example to registry.example.com/cnclip"; exit 64; }
	for image in trainer trainer-cuda operator; do \
	    docker build --target $$image --tag $(IMAGE_REGISTRY)/$$image:$(VERSION) . && \
	    docker push $(IMAGE_REGISTRY)/$$image:$(VERSION) || exit 1; \
	done

cluster:
	@$(PYTHON) -m testbed up

clean-cluster:
	@$(PYTHON) -m testbed down --wipe

# Former names, to be removed after the next release.
bed: cluster
clean-bed: clean-cluster
