"""How a published model is sampled: what its folder says, what its kind says, and what nothing says is told."""

import inspect

import pipelines
import pytest
from diffusers import AceStepPipeline, AudioLDM2Pipeline, AudioLDMPipeline, StableAudio3Pipeline, StableAudioPipeline

from melfusion.assembly import own_settings, published
from melfusion.assembly.configuration import load_config
from melfusion.assembly.schema import to_dict
from melfusion.config.check import flatten
from melfusion.models.backbones.options import DENOISERS

STEPS, GUIDANCE, SAMPLER = "sampling.num_inference_steps", "sampling.guidance_scale", "sampling.sampler"

PIPELINES = {
    "ace_step": AceStepPipeline,
    "audioldm": AudioLDMPipeline,
    "audioldm2": AudioLDM2Pipeline,
    "stable_audio": StableAudioPipeline,
    "stable_audio_3": StableAudio3Pipeline,
}


@pytest.mark.parametrize(("name", "pipeline"), PIPELINES.items())
def test_how_a_kind_is_sampled_is_what_diffusers_own_pipeline_does_by_default(name, pipeline):
    own, given = DENOISERS[name].OWN, inspect.signature(pipeline.__call__).parameters
    named = {key: given.get(key.partition(".")[2]) for key in (STEPS, GUIDANCE, "diffusion.shift")}
    wanted = {key: one.default for key, one in named.items() if one is not None and one.default is not None}
    if name == "audioldm":  # whose authors have 200 (haoheliu/AudioLDM, audioldm/__main__.py)
        assert wanted.pop(STEPS) == 10 and own[STEPS] == 200
    assert GUIDANCE in wanted and {key: own[key] for key in wanted} == wanted  # None: as the scheduler says
    if name == "stable_audio_3":
        assert own["diffusion.logsnr"] == [given["logsnr_min"].default, given["logsnr_max"].default]


def folder_of(name, folder, **told):
    """A configuration with a pipeline's folder as diffusers writes its configurations, without weights."""
    config, _, backbone = pipelines.parts_of(name)
    backbone.network.register_to_config(**{key: value for key, value in told.items() if key != "stochastic"})
    backbone.network.save_config(folder / "transformer")
    if "stochastic" in told:
        pipelines.flow_scheduler(told["stochastic"]).save_pretrained(folder / "scheduler")
    config.denoiser.weights = str(folder)
    return config


def chosen(name, folder, *more):
    """A configuration that names kinds and a folder, and nothing of how it is sampled."""
    kinds = {"diffusion": DENOISERS[name].OWN["diffusion.kind"], "conditioner": name, "denoiser": name}
    kinds["codec"] = "same" if name == "stable_audio_3" else "oobleck"
    overrides = [*(f"{section}.kind={kind}" for section, kind in kinds.items()), f"denoiser.weights={folder}", "synapse.kind=none"]
    return load_config("base", [*overrides, *more])


TURBO, DISTILLED = {STEPS: 8, GUIDANCE: 1.0, "diffusion.shift": 3.0}, {SAMPLER: "ping_pong", STEPS: 8, GUIDANCE: 1.0}
ASK_FOR_BASE = f"for base weights, sampling.sampler=euler {STEPS}=100"

TOLD = {  # kind, what its files say, where the weights are → how it is sampled, and what is told beside
    "turbo": ("ace_step", {"is_turbo": True}, "", TURBO, None),
    "turbo by its version": ("ace_step", {"model_version": "turbo"}, "", TURBO, None),
    "turbo, the network alone": ("ace_step", {"is_turbo": True}, "transformer", TURBO, None),
    "no turbo": ("ace_step", {"model_version": "base"}, "", {STEPS: 50, GUIDANCE: 7.0}, f"{STEPS}=50 is the default"),
    "distilled": ("stable_audio_3", {"stochastic": True}, "", DISTILLED, None),
    "not distilled": (
        "stable_audio_3",
        {"stochastic": False},
        "",
        {SAMPLER: "euler", STEPS: 100, GUIDANCE: 1.0},
        f"their authors try {GUIDANCE}=7",
    ),
    "no scheduler": ("stable_audio_3", {}, "", DISTILLED, ASK_FOR_BASE),
    "the network of a pipeline": ("stable_audio_3", {"stochastic": True}, "transformer", DISTILLED, ASK_FOR_BASE),
    "Stable Audio Open": ("stable_audio", {}, "", {SAMPLER: "dpm_sde", STEPS: 100, GUIDANCE: 7.0}, None),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_folder_alone_says_how_its_weights_are_sampled_and_what_it_does_not_say_is_told(tmp_path, caplog, case):
    """No YAML names any of it."""
    name, told, sub, wanted, words = TOLD[case]
    folder_of(name, tmp_path, **told)
    config = chosen(name, tmp_path / sub)
    flat = flatten(to_dict(config))
    assert {key: flat[key] for key in wanted} == wanted
    caplog.clear()
    published.warn(config)
    assert len(caplog.messages) == (words is not None) and all(words in message for message in caplog.messages)
    config = chosen(name, tmp_path / sub, f"{STEPS}=13")  # which the call names
    assert config.sampling.num_inference_steps == 13


def test_a_turbo_model_that_is_sampled_otherwise_is_told_exactly_what_to_give(tmp_path, caplog):
    folder_of("ace_step", tmp_path, is_turbo=True)
    published.warn(chosen("ace_step", tmp_path, f"{GUIDANCE}=7", "diffusion.shift=1"))
    assert caplog.messages == [
        f"{tmp_path} was made for other settings than the configuration's: give diffusion.shift=3.0 sampling.guidance_scale=1.0."
    ]
    caplog.clear()
    folder_of("ace_step", tmp_path, is_turbo=False)
    published.warn(chosen("ace_step", tmp_path, f"{STEPS}=8"))  # the turbo's, as configs/ace_step.yaml has it
    assert "since the authors recommend 32 to 64" in caplog.text
    caplog.clear()
    published.warn(chosen("ace_step", tmp_path, f"{STEPS}=40"))
    assert not caplog.messages


def test_what_a_run_of_another_objective_has_trained_is_no_published_model():
    config = pipelines.config_of("stable_audio")
    config.denoiser.weights = "run:mine"
    assert own_settings.own(config, None)[0] == config.denoiser.OWN
    config.diffusion = load_config("scenes_flow").diffusion
    assert own_settings.own(config, None) == ({}, {})
