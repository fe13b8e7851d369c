# The interface most people need; `make help` documents it, and CI calls it too.
# Every verb is a thin call of `python -m melfusion VERB [CONFIG] [key=value …]`, which works without make.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install train evaluate listening ablate submit generate precompute shards torture release-scenes data-scenes data-games tensorboard lint test test-slow

# Free text travels through the environment, verbatim: no expansion of `$` by make, no words for the shell to split
define verbatim
ifneq ($(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,IMAGE PROMPT OUT CKPT DIR SUITE MANIFEST AUDIO_DIR IMAGE_DIR GAMES_DIR CONFIG PYTHON,$(eval $(call verbatim,$(name))))

# Lower-case variables given on the command line are options: `make generate seed=3`
letters := a b c d e f g h i j k l m n o p q r s t u v w x y z
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(filter $(addsuffix %,$(letters)),$(given)),$(eval unexport $(name)))
options = $(foreach name,$(filter $(addsuffix %,$(letters)),$(given)),'$(name)=$(subst ','\'',$(value $(name)))')

ifdef PYTHON
PY := $(PYTHON)
else ifdef VIRTUAL_ENV
PY := $(VIRTUAL_ENV)/bin/python
else ifdef CONDA_PREFIX
PY := $(CONDA_PREFIX)/bin/python
else
PY := .venv/bin/python
endif
DEVICES_AND_SUCH = $(if $(DEVICES),'trainer.devices=$(DEVICES)') $(if $(NODES),'trainer.num_nodes=$(NODES)') \
	$(if $(STRATEGY),'trainer.strategy=$(STRATEGY)')
FIRST := $(or $(PYTHON),$(shell command -v python3.11 || command -v python3.12 || command -v python3))
CLI = PYTHONPATH=src "$(PY)" -m melfusion

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install:  ## set everything up: .venv (or the active environment, or PYTHON=), packages, once
	@"$(FIRST)" src/melfusion/install.py

train: install  ## train; CONFIG=scenes by default, CONFIG=games,tiny lays one over another, ARGS="key=value …"
	@$(CLI) train $(DEVICES_AND_SUCH) $(ARGS) $(options)

evaluate: install  ## CKPT=runs/name (or ARGS="wavs=folder") n= data.seed= rows= OUT= listening=true: scores and a listening page
	@$(CLI) evaluate $(ARGS) $(options)

listening: install  ## DIR=folder of a blind page: its answers*.json → a table of OVL and REL by system, with intervals
	@$(CLI) listening $(ARGS) $(options)

ablate: install  ## SUITE=headline: every row of experiments/SUITE/, one table; rows= jobs=2 cluster=slurm publish=true
	@$(CLI) ablate $(ARGS) $(options)

submit: install  ## VERB=train as a SLURM job: the verb's own variables, and cluster.time= cluster.partition= … (configs/cluster/slurm.yaml)
	@$(CLI) submit "$(or $(VERB),train)" $(DEVICES_AND_SUCH) $(ARGS) $(options)

generate: install  ## IMAGE=picture PROMPT="a sentence" OUT=music.wav CKPT=runs/name seed= n= guidance_scale= …
	@$(CLI) generate $(ARGS) $(options)

precompute: install  ## store latents, text embeddings and picture features beside the samples
	@$(CLI) precompute $(ARGS) $(options)

shards: install  ## MANIFEST= AUDIO_DIR= IMAGE_DIR= OUT=: your own files, MeLBench or MusicCaps → shards
	@$(CLI) shards $(ARGS) $(options)

torture: install  ## kill, starve and lie to small trainings, points=200 times and more; a table of what was lost: nothing
	@$(CLI) torture $(ARGS) $(options)

release-scenes: install  ## train every shipped part from nothing, hours on a CPU, and write weights/ with model cards
	@$(CLI) release-scenes

data-scenes: install  ## draw and render the embedded corpus
	@$(CLI) data-scenes $(ARGS) $(options)

data-games: install  ## real tuples from freely licensed games in Debian's packages; GAMES_DIR= for unpacked ones
	@$(CLI) data-games $(ARGS) $(options)

tensorboard: install  ## curves, pictures and sounds of all runs
	@$(CLI) tensorboard $(ARGS)

lint: install  ## ruff
	@"$(PY)" -m ruff check .

test: install  ## the tests: at most ten minutes on two cores
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -n 2

test-slow: install  ## what is longer
	@"$(PY)" -m pytest -m slow
