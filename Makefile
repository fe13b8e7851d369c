# The interface that most people need; `make help` lists it, and CI calls it, too.
# Every verb is a thin call of `python -m melfusion VERB [CONFIG] [key=value …]`, which works without make; VERB --help lists its options.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install train generate app film show export fetch-weights memory evaluate picture-test picture-gain probe listening ablate measure submit precompute shards data-scenes data-games release-scenes torture bench tensorboard lint test test-slow coverage

# Free text travels through the environment, verbatim: make expands no `$` in it, and the shell splits no words
define verbatim
ifneq ($(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,IMAGE PROMPT AUDIO STORY FILM LYRICS TIMBRE OUT FILE CKPT DIR SUITE MANIFEST AUDIO_DIR IMAGE_DIR GAMES_DIR CONFIG PYTHON,$(eval $(call verbatim,$(name))))

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

help:  ## this list; `melfusion VERB --help` has all options of a verb
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

install:  ## set everything up once: .venv (or the active environment, or PYTHON=) and its packages
	@"$(FIRST)" src/melfusion/install.py

train: install  ## train, then evaluate; CONFIG=scenes by default, CONFIG=games,tiny lays one over another, ARGS="key=value …"
	@$(CLI) train $(DEVICES_AND_SUCH) $(ARGS) $(options)

generate: install  ## IMAGE=picture PROMPT="a sentence" OUT=music.wav CKPT=runs/name seed= n= guidance_scale= … or list=items.jsonl
	@$(CLI) generate $(DEVICES_AND_SUCH) $(ARGS) $(options)

app: install  ## port=7860 ckpt=runs/name auth=visitors.txt: a page in the browser; needs pip install 'melfusion[app]', docs/app.md
	@$(CLI) app $(ARGS) $(options)

film: install  ## FILM=a.mp4 OUT=b.mp4 PROMPT="a sentence": music for the pictures of a film; needs pip install 'melfusion[video]'
	@$(CLI) film $(ARGS) $(options)

show: install  ## FILE=music.wav: what a sound file says of how it was made, and the command that makes it again
	@$(CLI) show $(ARGS) $(options)

export: install  ## CKPT=runs/name OUT=folder: what the model learned, as a folder that melfusion.load reads; whole=true with all parts
	@$(CLI) export $(ARGS) $(options)

fetch-weights: install  ## CONFIG=ace_step: get the published weights that a configuration names, with their licences
	@$(CLI) fetch-weights $(ARGS) $(options)

memory: install  ## CONFIG=melfusion: parameters, FLOPs, and the GPU memory that training and generation take; nothing is fetched
	@$(CLI) memory $(ARGS) $(options)

evaluate: install  ## CKPT=runs/name (or wavs=folder) n= data.seed= rows= OUT= listening=true: scores and a page to listen to
	@$(CLI) evaluate $(DEVICES_AND_SUCH) $(ARGS) $(options)

picture-test: install  ## CKPT=runs/name (or command='…', or sounds=folder) n= OUT=: does a system listen to its picture? docs/picture_test.md
	@$(CLI) picture-test $(ARGS) $(options)

picture-gain: install  ## CKPT=runs/name split=val clips=4: what the right picture is worth to a model on real tuples
	@$(CLI) picture-gain $(ARGS) $(options)

probe: install  ## CONFIG=games ARGS="data.path=…": do the pictures of a data set say anything of their music? Ridge regression, no training
	@$(CLI) probe $(ARGS) $(options)

listening: install  ## DIR=folder of a listening study: its answers*.json → a table of OVL and REL by system, with intervals
	@$(CLI) listening $(ARGS) $(options)

ablate: install  ## SUITE=headline: every row of experiments/SUITE/, one table; rows= jobs=2 cluster=slurm publish=true
	@$(CLI) ablate $(ARGS) $(options)

measure: install  ## ARGS="restyle n=200": what editing does on drawn scenes: restyle, stories or seams; publish=true
	@$(CLI) measure $(ARGS) $(options)

submit: install  ## VERB=train as a SLURM job: the verb's own variables, and cluster.time= cluster.partition= …
	@$(CLI) submit "$(or $(VERB),train)" $(DEVICES_AND_SUCH) $(ARGS) $(options)

precompute: install  ## store latents, text embeddings and inverted pictures beside the samples
	@$(CLI) precompute $(DEVICES_AND_SUCH) $(ARGS) $(options)

shards: install  ## MANIFEST= AUDIO_DIR= IMAGE_DIR= OUT=: your own files, MeLBench, MusicCaps, EMID, OSSL-v2, … → shards
	@$(CLI) shards $(ARGS) $(options)

data-scenes: install  ## draw and render the embedded corpus
	@$(CLI) data-scenes $(ARGS) $(options)

data-games: install  ## real tuples from freely licensed games in Debian's packages; GAMES_DIR= for unpacked ones
	@$(CLI) data-games $(ARGS) $(options)

release-scenes: install  ## train every shipped part from nothing, hours on a CPU, and write weights/ with model cards
	@$(CLI) release-scenes $(ARGS) $(options)

torture: install  ## kill and disturb small trainings, points=200 times and more; a table of what was lost
	@$(CLI) torture $(ARGS) $(options)

bench: install  ## size=tiny|small|full only=training,generation compare=FILE: speed beside the released setting; a table, runs/bench.json
	@$(CLI) bench $(ARGS) $(options)

tensorboard: install  ## DIR=runs/kind: curves, pictures and clips of all runs, or of a suite; ARGS="--port=6007"; docs/dashboard.md
	@$(CLI) tensorboard $(ARGS) $(options)

lint: install  ## check style, format and types
	@"$(PY)" -m ruff check . && "$(PY)" -m ruff format --check . && "$(PY)" -m mypy

test: install  ## the tests: about ten minutes on two cores
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -n 2

test-slow: install  ## the tests that take longer
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -m slow

coverage: install  ## the share of lines that `make test` runs, file by file; slower than `make test`
	@OMP_NUM_THREADS=1 PYTHONPATH=src "$(PY)" -m coverage run -m pytest && "$(PY)" -m coverage report --skip-covered --show-missing
