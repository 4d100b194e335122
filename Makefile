# The commands of the project. Downloads and builds are kept in the user's cache folder.
export CNCLIP_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cnclip
export CARGO_TARGET_DIR ?= $(CNCLIP_CACHE)/target
export PYTHONPATH := $(CURDIR)/tests
export VERSION := $(shell sed -n '/workspace.package/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
PYTHON := python3 -u

.PHONY: help demo ablation test lint images cuda cuda-image gpu-check push bed clean-bed
help:
	@echo "make demo       train and score a small Chinese-CLIP on a cluster of its own (KEEP=1 leaves it up,"
	@echo "                CLUSTER=current uses the cluster of your kubeconfig instead)"
	@echo "make ablation   the paper's ablation in miniature: from scratch, without the first stage, in two stages"
	@echo "make test       every test, the end-to-end ones on a fresh cluster included"
	@echo "make lint       format and lints only"
	@echo "make images     the operator's and the trainer's image, as OCI tars in target/images"
	@echo "make cuda       the trainer for NVIDIA GPUs and its tests on one, in target/cuda"
	@echo "make cuda-image the image trainer-cuda: that program and NVIDIA's libraries, as an OCI tar in target/images"
	@echo "make gpu-check  on a machine with a GPU: its tests, a training and benchmarks (PROGRAM= and TESTS= name"
	@echo "                what make cuda built elsewhere, ARGUMENTS= is told in docs/gpu.md)"
	@echo "make push       the same by docker, pushed to IMAGE_REGISTRY"
	@echo "make bed        bring up the cluster and leave it"
	@echo "make clean-bed  end that cluster and remove its data"

demo:
	@$(PYTHON) -m demo

ablation:
	@$(PYTHON) -m demo.ablation

test:
	@$(PYTHON) -m suite

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release -- -D warnings

images:
	@$(PYTHON) -m bed images

cuda:
	@$(PYTHON) tests/cuda/build.py

cuda-image:
	@$(PYTHON) -m bed images trainer-cuda

PROGRAM ?= target/cuda/cnclip
TESTS ?= target/cuda/device-tests
PAIRS ?= target/cuda/emoji
gpu-check:
	@$(PYTHON) tests/cuda/check.py --program $(PROGRAM) --tests $(TESTS) --pairs $(PAIRS) $(ARGUMENTS)

push:
	@test -n "$(IMAGE_REGISTRY)" || { echo "error: IMAGE_REGISTRY is not set: registry.example.com/cnclip, say"; exit 64; }
	for image in trainer trainer-cuda operator; do \
	    docker build --target $$image --tag $(IMAGE_REGISTRY)/$$image:$(VERSION) . && \
	    docker push $(IMAGE_REGISTRY)/$$image:$(VERSION) || exit 1; \
	done

bed:
	@$(PYTHON) -m bed up

clean-bed:
	@$(PYTHON) -m bed down --wipe
