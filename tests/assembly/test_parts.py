"""The registry of parts: each line is whole, and nothing else has to know a part."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from data_fixtures import one_sentence

from melfusion.assembly.configuration import check_overrides, from_dict, load_config
from melfusion.assembly.parts import PARTS, STAGES, export_part, noise_shapes, part
from melfusion.assembly.schema import Config, to_dict, twins
from melfusion.config.load import CONFIG_DIR
from melfusion.errors import ConfigError
from melfusion.models.frozen import digest
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.options import OPTIONS, synapse_config


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_built_measured_and_exported_by_its_line(name, tmp_path, make_batch):
    names = f"{name},tiny" if (CONFIG_DIR / f"{name}.yaml").is_file() else "tiny"
    config = load_config(names, [f"task={name}", "trainer.max_steps=2", *(["vocoder.kind=vocos"] if name == "vocoder" else [])])
    module = part(config)
    batch = make_batch(config, module)
    assert all(batch.draws[stream].shape[1:] == shape for stream, shape in noise_shapes(config, module).items())
    export_part(module, config, tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    section = getattr(config, PARTS[name].section)
    section.weights = str(tmp_path)
    if name != "melfusion":
        again = part(config)
        state = module.state_dict()
        same = {key for key, tensor in again.state_dict().items() if torch.equal(tensor, state[key])}
        assert same == set(state)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_a_section_with_weights_and_tiny_sizes(name):
    section, of = PARTS[name].section, Config()
    assert hasattr(getattr(of, section), "weights") and twins(of)[section]["weights"] is None
    assert all(hasattr(getattr(of, section), key) for key in twins(of)[section])
    assert all(hasattr(of, each) for each in PARTS[name].depends_on or ())


def test_stages_are_the_parts_that_train_alone():
    assert set(STAGES) == set(PARTS) - {"melfusion"}
    with pytest.raises(ConfigError, match="stages names 'musik_vae'; did you mean 'music_vae'") as caught:
        load_config("tiny", ["stages=[musik_vae]"])
    assert one_sentence(caught.value)


def test_the_registry_imports_no_torch():
    code = "import sys, melfusion.assembly.parts, melfusion.models.synapse.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- kinds of synapse -------------------------------------------------------------------------------------------------


def test_the_options_of_every_kind_are_those_that_its_class_takes():
    assert list(OPTIONS) == list(SYNAPSES)
    for kind in OPTIONS:
        own = synapse_config(kind).own() | ({"match": "pool_2d"} if kind == "controlnet" else {})
        assert isinstance(SYNAPSES[kind]([], **own), torch.nn.Module)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["synapse.kind=concat", "synapse.alpha_init=1"],
            "kv_mix | kv_mix_proj | decoupled | context_mix, and the kind here is concat",
        ),
        (["synapse.kind=kv_mix", "synapse.image_tokens=3"], "concat | decoupled | controlnet | language_of_audio"),
        (["synapse.kind=concat", "synapse.image_token=3"], "did you mean 'synapse.image_tokens'"),
        (["synapse={kind: none, match_scale: true}"], "kv_mix | kv_mix_proj"),
        (["ablation.told=x"], "`ablation.told` is now `ablation.condition`"),
        (["unet.trainable=all"], "`unet.trainable` is now `denoiser.trainable`"),
        (
            ["image.kind=clip", "image.reading=fixed"],
            "image.reading is an option of image.kind=diffusion, and the kind here is clip",
        ),
    ],
)
def test_an_option_that_the_kind_does_not_have_is_an_error_that_names_those_that_do(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", overrides)
    assert words in one_sentence(caught.value)


def test_a_file_with_an_option_of_another_kind_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: scenes\nsynapse: {kind: kv_mix, image_tokens: 3}")
    with pytest.raises(ConfigError, match="mine.yaml: synapse.image_tokens is an option of"):
        load_config(str(file))
    file.write_text("base: scenes\nablation: {told: no picture}")
    with pytest.raises(ConfigError, match="mine.yaml: `ablation.told` is now `ablation.condition`"):
        load_config(str(file))


def test_what_a_lower_file_sets_for_its_own_kind_comes_back_with_that_kind(tmp_path):
    own = dataclasses.replace(synapse_config("kv_mix"), layers=["decoder"])  # of a UNet, settled when it was read
    assert load_config("scenes", ["synapse.kind=kv_mix"]).synapse == own
    (tmp_path / "lower.yaml").write_text("base: own\nsynapse: {kind: kv_mix}")
    upper = tmp_path / "upper.yaml"
    upper.write_text("base: lower\nsynapse: {kind: decoupled}")
    assert load_config(str(upper)).synapse.image_tokens == load_config("own").synapse.image_tokens == 16


def test_a_stored_configuration_of_before_loses_the_options_of_other_kinds_without_a_word(caplog):
    config = load_config("scenes")
    tree = to_dict(config)
    tree["synapse"] |= {"alpha_init": 0.5, "match_scale": False}
    tree["ablation"]["told"] = tree["ablation"].pop("condition")
    assert from_dict(tree) == config and not caplog.text


def test_overrides_are_checked_for_whatever_kind_has_them():
    check_overrides(["synapse.image_tokens=3"])
    check_overrides(["synapse.alpha_share=head"])
    with pytest.raises(ConfigError):
        check_overrides(["synapse.image_tokens=3", "synapse.kind=kv_mix"])


def test_a_part_is_the_same_in_every_process(tiny):
    config = tiny("task=towers")
    assert digest(part(config)) == digest(part(config))
