# skipzoo: `make` lists the targets, and each sets up what it needs. Begin with `make ablation`.
PYTHON ?= python3
RUN := .venv/bin/python -m
READY := .venv/.ready

.PHONY: help setup train ablation ablation-vit transfer check-data verify bugs samples shapes report bench test test-fast check
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from requirements.lock, and nothing else

train: $(READY)  ## one network on images drawn by code, a line an epoch (MODEL=resnet20)
	@$(RUN) experiments.train $(MODEL) $(ARGS)

ablation: $(READY)  ## plain against residual networks (PRESET=quick|cifar10|paper|imagenet-nets, DATA=folder, ARGS='--seeds 5')
	@$(RUN) experiments.ablation $(PRESET) $(if $(DATA),--data-dir '$(DATA)') $(ARGS)

ablation-vit: $(READY)  ## vision transformers with and without their skips (DATA=folder, ARGS='--seeds 5')
	@$(RUN) experiments.ablation vit $(if $(DATA),--data-dir '$(DATA)') $(ARGS)

transfer: $(READY)  ## five ways of training on your pictures, four from pretrained weights (DATA=folder, ARGS='--model resnet50')
	@$(RUN) experiments.transfer $(if $(DATA),'$(DATA)') $(ARGS)

check-data: $(READY)  ## what is in a folder of pictures, and whether all of it decodes (DATA=folder)
	@$(RUN) experiments.check_data $(if $(DATA),'$(DATA)') $(ARGS)

verify: $(READY)  ## seven networks against torchvision, transformers and timm (or MODEL=resnet50, block by block)
	@$(RUN) experiments.verify $(MODEL) $(ARGS)

bugs: $(READY)  ## bugs, and which checks catch them
	@$(RUN) experiments.bugs $(ARGS)

samples: $(READY)  ## a contact sheet of the pictures that data/synthetic.py draws
	@$(RUN) experiments.samples $(ARGS)

shapes: $(READY)  ## shapes, parameters and FLOPs of a network, stage by stage (MODEL=resnet50)
	@$(RUN) experiments.shapes $(or $(MODEL),resnet50) $(ARGS)

report: $(READY)  ## the table and verdict of a campaign again, or a transfer's advice (FOLDER=runs/quick)
	@$(RUN) experiments.report $(or $(FOLDER),runs/quick) $(ARGS)

bench: $(READY)  ## speed ratios against PyTorch's and torchvision's usual ways
	@$(RUN) experiments.bench $(ARGS)

test: $(READY)  ## all tests; README's tables of training are not made again
	@$(RUN) pytest -n 2 --dist loadfile $(ARGS)

test-fast: $(READY)  ## the networks and their proofs, imports, batches and verdicts: about a minute
	@$(RUN) pytest -n 2 --dist loadfile -m 'not slow' -k 'not timm and not transformers' \
	    tests/zoo tests/test_arrows.py tests/data/test_batches.py tests/experiments/ablation/test_report.py $(ARGS)

check: $(READY)  ## style and types
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

# Installing goes through uv, which takes seconds; where there is none it is put into .venv first.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "skipzoo needs Python 3.11 to 3.13"; \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1)"; \
	    echo "name another one: make setup PYTHON=python3.12"; exit 2; } >&2
	@$(PYTHON) -m venv .venv || { \
	    echo "cannot make a virtual environment"; \
	    echo "$(PYTHON) -m venv .venv"; \
	    echo "install the venv module (Debian, Ubuntu: apt install python3-venv)"; exit 2; } >&2
	@command -v uv >/dev/null || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@PATH="$(CURDIR)/.venv/bin:$$PATH" uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock
	@touch $@
