# `make help` lists the targets. Everything runs in .venv, made from constraints.txt by the first target that needs it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install data train classifier distil sample kit demo test test-slow oracles lint format audit bench gpu

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/diffwave-sde
# -qq: errors only. pip warns of every detail of its own configuration otherwise.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq -c constraints.txt -e
DATASET ?= drums
CKPT ?=
N ?= 16
OUT ?=
STEPS ?= 4
ARGS ?=
# A name in configs/data stands for its settings; anything else is a folder, or several names joined by +.
DATA = $(if $(wildcard configs/data/$(DATASET).yaml),--config "configs/data/$(DATASET).yaml",--data.dataset="$(DATASET)")

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20
	@printf '\nVariables: DATASET=drums|drums-free|synth|hydrogen|sonic-pi|/any/folder|kit.sfz|x.sf2  CKPT=runs/NAME|model  N=16  STEPS=4  OUT=folder\n'
	@printf '           ARGS="..." is passed on, e.g. ARGS="--trainer.max_steps=50 --model.sde=CLD"\n'
	@printf 'More: $(BIN)/diffwave-sde --help (edit, evaluate, likelihood, doctor, export, schedule)\n'

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than Python 3.10: name a newer one, make PYTHON=python3.12 ..." >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo 'installing the pinned versions into .venv: some gigabytes, some minutes'
	@$(PIP) '.[dev]'
	@touch $@

install: $(BIN)/.installed  ## Make .venv with the pinned versions

data: install  ## Read and pack DATASET, once (train does it by itself)
	@$(RUN) prepare $(DATA) $(ARGS)

train: install  ## Train on DATASET; go on with ARGS="--ckpt_path last"
	@$(RUN) fit $(DATA) $(ARGS)

classifier: install  ## Train a classifier of DATASET, to guide sounds by: sample ARGS="--classifier runs/DATASET-classifier"
	@$(RUN) fit --config configs/experiment/classifier.yaml $(DATA) $(ARGS)

distil: install  ## Train a student of CKPT (default: the model drums) on DATASET that takes STEPS calls
	@$(RUN) fit $(DATA) --config configs/experiment/distil.yaml --model.loss.teacher="$(or $(CKPT),drums)" \
	  --model.loss.steps=$(STEPS) --model.sampler.steps=$(STEPS) $(ARGS)

sample: install  ## Make N sounds from CKPT (default: the newest run, else the model drums)
	@$(RUN) sample $(if $(CKPT),--ckpt "$(CKPT)") --n $(N) $(if $(OUT),--out "$(OUT)") $(ARGS)

kit: install  ## Make a drum kit from CKPT to take away: ARGS="--kick 4 --snare 4 --format sfz hydrogen"
	@$(RUN) kit $(if $(CKPT),--ckpt "$(CKPT)") $(if $(OUT),--out "$(OUT)") $(ARGS)

demo: install  ## Open a page to play with the sounds of CKPT: pads, a sequencer, a kit to take away
	@$(PIP) '.[demo]'
	@$(RUN) demo $(if $(CKPT),--ckpt "$(CKPT)") $(ARGS)

# A module stays on one process, for what its tests share.
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope
test: install  ## Run the tests
	@$(PYTEST) --durations=20 --durations-min=10 $(ARGS)

test-slow: install  ## Run the tests that take minutes each
	@$(PYTEST) -m slow $(ARGS)

oracles: install  ## Compare samplers with those of diffusers, and play kits by sfizz, both of which it installs
	@$(PIP) '.[oracles]'
	@$(BIN)/python -m pytest tests/samplers/test_diffusers.py tests/kits/test_formats.py $(ARGS)

lint: install  ## Check the style of the code
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install  ## Put the code into that style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# In an environment of its own, since it wants other versions than ours. --strict: a package that nothing is known of, as
# where an index is a mirror without advisories, is a failure and no pass.
AUDIT := .venv-audit/bin
audit:  ## Look up the pinned versions among known holes; needs the network
	@[ -x $(AUDIT)/pip-audit ] || { $(PYTHON) -m venv .venv-audit && \
	  $(AUDIT)/python -m pip install --disable-pip-version-check -qq 'pip-audit>=2.7' 2>/dev/null; } || \
	  { echo 'audit: pip-audit cannot be installed: is there a network?' >&2; rm -rf .venv-audit; exit 1; }
	@said=$$($(AUDIT)/pip-audit -r constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
	  -s osv $(ARGS) 2>&1) && echo "$$said" || \
	  { if grep -q '^Name ' <<< "$$said"; then echo "$$said"; else \
	    echo "audit: the advisories cannot be reached, nothing was checked: $$(tail -n 1 <<< "$$said")" >&2; fi; exit 1; }

# Not what trains for hours, `benchmarks/ablation.py --help` and finetune.py; nor what needs a GPU or runs of yours.
BENCHES := $(filter-out %/ablation.py %/autoencoders.py %/finetune.py %/gpu.py %/peers.py %/planted.py %/tables.py, $(wildcard benchmarks/*.py))
bench: install  ## Run the benchmarks, one table each
	@for file in $(BENCHES); do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

gpu: install  ## Check and measure a CUDA GPU for nine minutes, and train a model on it
	@$(BIN)/python benchmarks/gpu.py --out "$(or $(OUT),runs/gpu)" $(ARGS)
