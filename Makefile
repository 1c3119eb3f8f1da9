# skipzoo: `make` lists the targets, and each sets up what it needs. Begin with `make ablation`.
# .venv/.made says which TORCH and PYTHON .venv was made with: they hold until others are named.
MADE := $(shell cat .venv/.made 2>/dev/null || { test -e .venv/.ready && echo lock python3; })
# Other ones are named on the command line; variables of the environment count the first time only.
TORCH := $(or $(word 1,$(MADE)),$(TORCH),lock)
PYTHON := $(or $(word 2,$(MADE)),$(PYTHON),python3)
RUN := .venv/bin/python -m
READY := .venv/.ready
ORACLES := .venv/.ready-dev
NEEDS_DATA = test -n '$(DATA)' || { echo "name your folder of images: make $@ DATA=my_images"; exit 2; } >&2

.PHONY: help setup doctor train ablation ablation-vit anatomy transfer check-data verify bugs shapes read report bench notebooks test test-fast check
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from requirements.lock (TORCH=cpu, auto, cu130 ...: another build of torch)
	@$(info ready; for commands without make, once per terminal: source .venv/bin/activate):

doctor: $(READY)  ## check this machine: what is wrong, the fix, and minutes for each target
	@$(RUN) experiments.doctor $(ARGS)

train: $(READY)  ## train one network on synthetic images, one line per epoch (MODEL=resnet20)
	@$(RUN) experiments.train $(MODEL) $(ARGS)

ablation: $(READY)  ## compare plain with residual networks (PRESET=quick|cifar10|paper|imagenet-nets|shortcuts|..., DATA=folder, ARGS='--seeds 5')
	@$(RUN) experiments.ablation $(PRESET) $(if $(DATA),--data-dir '$(DATA)') $(ARGS)

ablation-vit: $(READY)  ## compare vision transformers with and without skips (DATA=folder, ARGS='--seeds 5')
	@$(RUN) experiments.ablation vit $(if $(DATA),--data-dir '$(DATA)') $(ARGS)

anatomy: $(READY)  ## check claims about skips on trained networks (DATA=folder of CIFAR-10, ARGS='--from runs/quick')
	@$(RUN) experiments.anatomy $(if $(DATA),'$(DATA)') $(ARGS)

transfer: $(READY)  ## compare six transfer-learning strategies on your images (DATA=folder, ARGS='--model resnet50')
	@$(NEEDS_DATA)
	@$(RUN) experiments.transfer '$(DATA)' $(ARGS)

check-data: $(READY)  ## check a folder of images: classes, splits, duplicates, undecodable files (DATA=folder)
	@$(NEEDS_DATA)
	@$(RUN) experiments.check_data '$(DATA)' $(ARGS)

verify: $(ORACLES)  ## compare seven networks with torchvision, transformers and timm (or MODEL=resnet50, block by block)
	@$(RUN) experiments.verify $(MODEL) $(ARGS)

bugs: $(READY)  ## show which checks catch which bugs
	@$(RUN) experiments.bugs $(ARGS)

shapes: $(READY)  ## print shapes, parameters and FLOPs of a network, stage by stage (MODEL=resnet50)
	@$(RUN) experiments.shapes $(or $(MODEL),resnet50) $(ARGS)

read: $(READY)  ## write the files to read as pages with drawings, two also in Korean: runs/read/index.html
	@$(RUN) experiments.publish read

report: $(READY)  ## print the results of an ablation, a transfer or an anatomy again (FOLDER=runs/quick)
	@$(RUN) experiments.report $(or $(FOLDER),runs/quick) $(ARGS)

bench: $(READY)  ## measure speed ratios against usual code with PyTorch and torchvision
	@$(RUN) experiments.bench $(ARGS)

notebooks: $(ORACLES)  ## run the notebooks and keep their outputs (ARGS=notebooks/2_two_strategies.py)
	@.venv/bin/python notebooks/make.py $(ARGS)

test: $(ORACLES)  ## run all tests; the published results are not trained again
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(ORACLES)  ## run the tests of networks, proofs, imports, batches and verdicts: about a minute
	@$(RUN) pytest -n 2 --dist loadfile -m 'not slow' -k 'not timm and not transformers' \
	    tests/zoo tests/test_arrows.py tests/data/test_batches.py tests/experiments/ablation/test_report.py $(ARGS)

check: $(ORACLES)  ## check style and types
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

# Installing goes through uv, which takes seconds; where there is none it is put into .venv first.
UV := PATH="$(CURDIR)/.venv/bin:$$PATH" uv pip install --quiet --compile-bytecode --python .venv/bin/python
ifeq ($(TORCH),lock)
INSTALL := $(UV) --require-hashes -r requirements.lock
else
# PyTorch's index has torch and torchvision with hashes of its own, and CUDA's libraries to each.
INSTALL := awk '/^[a-z]/ { bare = /^torch/; skip = bare || /^(cuda|nvidia|triton)/ } \
    bare && /^torch/ { print $$1 } !skip' requirements.lock | $(UV) --torch-backend $(TORCH) -r -
endif
ifneq ($(TORCH) $(PYTHON),$(MADE))
.PHONY: $(READY)
endif

$(READY): requirements.lock
	@case '$(TORCH)' in lock|auto|cpu|cu[0-9]*|rocm[0-9]*|xpu) ;; *) \
	    echo "no build of torch has this name"; \
	    echo "TORCH=$(TORCH)"; \
	    echo "give cpu, auto, cu130 or another that 'uv pip install --help' lists; or lock"; exit 2;; \
	esac >&2
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
	    echo "skipzoo needs Python 3.11 to 3.14; uv installs one, or name one with PYTHON="; \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1)"; \
	    echo 'uv python install 3.12 && make setup PYTHON="$$(uv python find 3.12)"'; exit 2; } >&2
ifneq ($(TORCH) $(PYTHON),$(MADE))
	@test -n '$(MADE)' || test ! -e .venv || { \
	    echo "there is a virtual environment that make did not make, or did not finish"; \
	    echo "$(CURDIR)/.venv"; \
	    echo "move it away, or delete it: rm -r .venv"; exit 2; } >&2
	@$(PYTHON) -m venv --clear .venv || { \
	    rm -rf .venv; \
	    echo "cannot make a virtual environment"; \
	    echo "$(PYTHON) -m venv .venv"; \
	    echo "install the venv module (Debian, Ubuntu: apt install python3-venv)"; exit 2; } >&2
	@echo '$(TORCH) $(PYTHON)' > .venv/.made
endif
	@command -v uv >/dev/null || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(INSTALL) || { \
	    echo "cannot install requirements.lock; uv says why above"; \
	    echo "TORCH=$(TORCH)"; \
	    echo "try again (make repeats this TORCH), or: make setup TORCH=lock, 3.1 GB; others must be on download.pytorch.org"; exit 2; } >&2
	@touch $@

# What tests, style and comparisons need besides. Their dependencies are in the two locks.
$(ORACLES): $(READY) requirements-dev.lock
	@$(UV) --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
