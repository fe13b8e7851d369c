"""Every shipped configuration works; whatever is wrong in one is a single sentence; free text survives."""

import re
from pathlib import Path

import building as build
import pytest
import torch
import yaml
from data_fixtures import one_sentence

from melfusion.assembly.configuration import from_dict, load_config, overlay
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten, valid_keys
from melfusion.config.load import CONFIG_DIR, config_path
from melfusion.errors import ConfigError
from melfusion.models.frozen import digest
from melfusion.models.system import MeLFusion

SHIPPED = sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))
FULL_SCALE = ("melfusion", "melbench", "musiccaps")
PARTS = ("music_vae", "vocoder", "text_encoder", "image", "denoiser")


def error_of(names, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(names, list(overrides))
    return one_sentence(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_package_ships_the_configs_of_the_repository():
    assert {"base", "tiny", "scenes", "games", *FULL_SCALE} <= set(SHIPPED)
    repository = Path(__file__).parents[2] / "configs"
    assert {p.name: p.read_text() for p in repository.glob("*.yaml")} == {
        f"{name}.yaml": (CONFIG_DIR / f"{name}.yaml").read_text() for name in SHIPPED
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_loads_and_its_own_keys_arrive(name):
    config = load_config(name)
    assert config.name == name
    for key, value in yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()).items():
        got = to_dict(config).get(key)
        if isinstance(value, dict):
            assert {k: got[k] for k, v in value.items() if not isinstance(v, dict | str)} == {
                k: v for k, v in value.items() if not isinstance(v, dict | str)
            }
        elif key not in ("base", "twins"):
            assert got == value


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_shipped_config_over_random_twins_takes_a_training_step(name, make_batch):
    config = load_config(f"{name},tiny")
    assert config.name == f"{name}-tiny"
    module = build.system(config) if config.task == "melfusion" else build.part(config)
    frozen = {
        n: digest(getattr(module, n))
        for n in ("conditioner", "image_encoder", "codec")
        if isinstance(module, MeLFusion) and getattr(module, n) is not None
    }
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in trained.items()}
    output = module.training_step(make_batch(config, module), 0)
    loss = output["loss"] if isinstance(output, dict) else output
    assert torch.isfinite(loss) and 0.1 < loss < 30
    loss.backward()
    made = module.configure_optimizers()
    made["optimizer"].step()
    moved = {n for n, p in trained.items() if not torch.equal(p, before[n])}
    assert len(moved) > 0.9 * len(trained) and all(torch.isfinite(p).all() for p in trained.values())
    assert frozen == {n: digest(getattr(module, n)) for n in frozen}
    if config.task == "melfusion" and config.synapse.kind == "kv_mix":
        assert {n for n in moved if "alphas" in n} == {f"denoiser.synapse.alphas.decoder{k}" for k in (1, 2)}


@pytest.mark.parametrize("name", FULL_SCALE)
def test_full_scale_has_the_published_sizes(name):
    parts = ("music_vae", "vocoder", "text_encoder", "image", "denoiser")
    published = load_config(name)
    assert all(getattr(published, part).weights.startswith("hub:") for part in parts)
    config = load_config(name, [f"{part}.weights=null" for part in parts])
    with torch.device("meta"):
        system = build.system(config)
    millions = {
        n: sum(p.numel() for p in m.parameters()) / 1e6
        for n, m in (("music", system.denoiser.unet), ("image", system.image_encoder.unet))
    }
    assert millions["music"] == pytest.approx(865.9, rel=0.01)
    assert millions["image"] == pytest.approx(859.5, rel=0.001)  # Stable Diffusion 1.5's UNet
    assert system.latent_shape() == (8, 256, 16)
    assert build.noise_shapes(config, system) == {"vae_noise": (8, 256, 16), "noise": (8, 256, 16)}
    assert system.conditioner.width == system.denoiser.unet.config.cross_attention_dim == 1024
    assert sorted(system.denoiser.synapse.alphas) == ["decoder1", "decoder2", "decoder3"]
    assert len(system.denoiser.synapse.specs) == 9 and len(system.image_encoder.grid) == 20
    assert config.data.path == f"data/{'melbench' if name == 'melfusion' else name}"


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_step=3", ["override 'trainer.max_step=3'", "'trainer.max_step'", "did you mean 'trainer.max_steps'?"]),
        ("synapze.kind=concat", ["'synapze", "did you mean 'synapse.kind'?"]),
        ("optim.lr=quick", ["'optim.lr'", "Float"]),
        ("trainer.max_steps=2.5", ["'trainer.max_steps'", "Integer"]),
        ("trainer.max_steps=null", ["'trainer.max_steps'", "None"]),
        ("denoiser.block_out_channels=3", ["'denoiser.block_out_channels'"]),
        ("denoiser.block_out_channels=[8,x]", ["'denoiser.block_out_channels[1]'", "Integer"]),
        ("synapse.kind=kv_mixx", ["synapse.kind='kv_mixx'", "did you mean 'kv_mix'?", "concat"]),
        ("data.crop=middle", ["data.crop='middle'", "random, start"]),
        ("data.precompute.enabled=true", ["data.crop=random", "data.crop=start"]),
        ("noequals", ["'noequals'", "key=value"]),
        ("=3", ["override '=3'"]),
        ("diffusion.text_drop_prob=0.95", ["diffusion.*_drop_prob", "0.95"]),
        ("diffusion.text_drop_prob=-0.1", ["diffusion.*_drop_prob", "-0.1"]),
        ("diffusion.pure_noise_share=1", ["diffusion.pure_noise_share", "1"]),
        ("image.kind=clp", ["image.kind='clp'", "did you mean 'clip'?"]),
        ("text_encoder.max_words=0", ["text_encoder.max_words", "null"]),
        ("audio.clip_duration_s=1.0", ["audio.clip_duration_s=1.0", "0.128 s"]),
        ("trainer.accumulate=3", ["data.global_batch_size=4", "trainer.accumulate=3"]),
        ("trainer.precision=bf16mixed", ["trainer.precision='bf16mixed'", "did you mean 'bf16-mixed'?"]),
        ("trainer.accelerator=gpuu", ["trainer.accelerator='gpuu'", "did you mean 'gpu'?"]),
        ("music_vae.texture_blocks=0", ["music_vae.texture_blocks=0", "greater than 0"]),
        ("music_vae.texture_steps=-1", ["music_vae.texture_steps=-1", "at least 0"]),
        ("data.precompute.batch_size=0", ["data.precompute.batch_size=0", "greater than 0"]),
        ("seed=-1", ["seed=-1", "at least 0"]),
        ("data.num_workers=-2", ["data.num_workers=-2", "at least 0"]),
    ],
)
def test_a_wrong_override_is_one_sentence_with_key_and_cure(override, words):
    message = error_of("tiny", override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer: {max_step: 3}", ["'trainer.max_step'", "did you mean 'trainer.max_steps'?"]),
        ("optim: {lr: quick}", ["'optim.lr'", "Float"]),
        ("trainer: {max_steps: }", ["'trainer.max_steps'", "None"]),
        ("data: {path: [a]}", ["'data.path'"]),
        ("optim: {lr: 1\n", ["not valid YAML", "line"]),
        ("seed: 1\nseed: 2", ["not valid YAML", "seed"]),
        ("- a\n- b", ["mapping"]),
        ("\0", ["not valid YAML"]),
    ],
)
def test_a_wrong_file_is_one_sentence_with_the_file(text, words, write):
    path = write("mine", text)
    message = error_of(path)
    assert path in message and all(word in message for word in words), message


def test_the_file_named_is_the_one_that_holds_the_error(write):
    base = write("lower", "optim: {lrr: 1}")
    assert base in error_of(write("upper", "base: lower"))


@pytest.mark.parametrize(("name", "near"), [("scene", "'scenes'"), ("melbnch", "'melbench'"), ("tinny", "'tiny'")])
def test_an_unknown_config_names_the_nearest(name, near):
    message = error_of(name)
    assert repr(name) in message and near in message


def test_an_unknown_base_is_an_error(write):
    assert "'nowhere'" in error_of(write("mine", "base: nowhere"))


def test_a_circle_of_bases_is_an_error(write):
    a, b = write("a", "base: b"), write("b", "base: a")
    message = error_of(a)
    assert a in message and b in message and "comes back to itself" in message
    assert "comes back" in error_of(write("self", "base: self"))


def test_a_value_in_place_of_a_section_names_the_section():
    message = error_of("tiny", "trainer=5")
    assert "'trainer'" in message.replace("override 'trainer=5'", "")


@pytest.mark.parametrize("override", ["trainer.accumulate=0", "audio.hop_length_samples=0", "optim.betas[0]=0.5"])
def test_numbers_that_cannot_be_are_a_sentence(override):
    error_of("tiny", override)


def test_a_duration_that_divides_is_not_refused_for_a_rounding_error():
    overrides = ["audio.sample_rate_hz=44100", "audio.hop_length_samples=441", "audio.clip_duration_s=2.24"]
    assert load_config("base", overrides).audio.clip_duration_s == 2.24  # 224 frames = 7 × 2⁵


def test_mel_bins_that_the_vae_cannot_halve_are_refused():
    assert "audio.n_mels" in error_of("tiny", "audio.n_mels=18")


# --- values ---------------------------------------------------------------------------------------------------------


PLAIN_TEXTS = [
    "calm: rain",
    "rock #1",
    "`ls`",
    '"loud"',
    "'n roll",
    "[x",
    "{x",
    "a=b",
    "a: b: c",
    "  wide  ",
    "none",
    "None",
    "!!python/object:x y",
    "&a b",
    "*star",
    "%",
    "@home",
    "| pipe",
    "> more",
    "$HOME",
    "\\n",
    "a\nb",
    "",
    "?",
    "1e-4",
    "naïve ♫",
]
YAML_LIKE_TEXTS = [
    "yes",
    "no",
    "on",
    "true",
    "1.50",
    "007",
    "1_000",
    "12:30:00",
    "0x10",
    "2024-01-01",
    "[x]",
    "{x}",
    "- x",
    "-",
    "???",
    "${x}",
    "${x",
    "${oc.env:HOME}",
]
TEXT_KEYS = (
    "sampling.negative_prompt",
    "name",
    "runs_dir",
    "data.path",
    "data.precompute.path",
    "music_vae.weights",
    "image.weights",
    "denoiser.weights",
)


def test_free_text_is_kept_verbatim():
    for start in range(0, len(PLAIN_TEXTS), len(TEXT_KEYS)):
        given = dict(zip(TEXT_KEYS, PLAIN_TEXTS[start:], strict=False))
        flat = flatten(to_dict(load_config("tiny", [f"{key}={text}" for key, text in given.items()])))
        assert {key: flat[key] for key in given} == given


@pytest.mark.parametrize("text", YAML_LIKE_TEXTS)
def test_free_text_that_looks_like_yaml_is_kept_verbatim(text):
    assert load_config("tiny", [f"sampling.negative_prompt={text}"]).sampling.negative_prompt == text


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("1E-4", 1e-4), (".5", 0.5), ("3", 3.0), ("1.0e-05", 1e-5)])
def test_a_float_stays_a_float(text, number):
    rate = load_config("tiny", [f"optim.lr={text}"]).optim.lr
    assert isinstance(rate, float) and rate == number


def test_null_and_lists_and_mappings_as_overrides():
    overrides = [
        "music_vae.weights=null",
        "image.weights=~",
        "denoiser.block_out_channels=[8, 16, 16]",
        "sampling.image_guidance_scale=2",
        "data.splits={train: 3}",
        "trainer.devices=2",
    ]
    config = load_config("scenes", overrides)
    assert config.music_vae.weights is None and config.image.weights is None
    assert config.denoiser.block_out_channels == [8, 16, 16] and config.sampling.image_guidance_scale == 2.0
    assert config.data.splits["train"] == 3 and config.trainer.devices == "2"
    assert load_config("tiny", ["optim.lr=1", "optim.lr=2"]).optim.lr == 2.0


def test_numbers_keep_their_value_through_a_yaml_file(write):
    config = load_config(write("mine", "optim: {lr: 1e-4}\nname: 7\ndiffusion: {min_snr_gamma: 5}"))
    assert (config.optim.lr, config.name, config.diffusion.min_snr_gamma) == (1e-4, "7", 5.0)


# --- base chain and overlays ----------------------------------------------------------------------------------------


def test_a_base_beside_the_file_comes_first_and_the_nearest_key_wins(write):
    write("root", "optim: {lr: 1.0, alpha_lr: 1.0, warmup_steps: 7}")
    write("middle", "base: root\noptim: {lr: 2.0, alpha_lr: 2.0}")
    optim = load_config(write("leaf", "base: middle\noptim: {lr: 3.0}")).optim
    assert (optim.lr, optim.alpha_lr, optim.warmup_steps) == (3.0, 2.0, 7)
    assert load_config(write("shipped", "base: scenes\nseed: 3")).data.image_size_px == load_config("scenes").data.image_size_px


def test_an_overlay_brings_its_own_keys_only(write):
    write("root", "optim: {lr: 1.0, alpha_lr: 1.0}")
    lower, upper = (write("lower", "optim: {lr: 2.0, warmup_steps: 7}"), write("upper", "base: root\noptim: {alpha_lr: 3.0}"))
    optim = load_config(f"{lower},{upper}").optim
    assert (optim.lr, optim.alpha_lr, optim.warmup_steps) == (2.0, 3.0, 7)
    assert load_config(f"{lower},{upper}").name == "lower-upper"
    assert load_config("melfusion,tiny").synapse.kind == "kv_mix" and load_config("games,tiny").synapse.kind == "concat"
    assert load_config("scenes,tiny").image.reading == "fixed" and load_config("melfusion,tiny").image.reading == "inverted"


@pytest.mark.parametrize("name", ["games", "own", "open_games"])
def test_real_tuples_are_seen_by_the_imagenet_network(name):
    config = load_config(name)
    assert (config.image.kind, config.image.weights) == ("efficientnet", "imagenet") and "image_diffusion" not in config.stages


def test_overlay_lays_a_stage_over_a_config():
    config = load_config("games,tiny")
    stage = overlay(config, "music_vae", {"name": "other", "stages": []})
    assert (stage.task, stage.name, stage.data.path) == ("music_vae", "other", config.data.path)
    assert stage.audio == config.audio and stage.optim.schedule == "cosine" and config.task == "melfusion"


def test_the_plain_tree_holds_plain_containers_and_comes_back(tmp_path, caplog):
    config = load_config("games", ["sampling.negative_prompt=calm: rain", "data.stream=[a.tar, b.tar]"])
    tree = to_dict(config)
    assert from_dict(tree) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(tree))) == config
    torch.save(tree, tmp_path / "tree.pt")
    assert torch.load(tmp_path / "tree.pt", weights_only=True) == tree
    older = tree | {"seeed": 1, "evaluation": tree["evaluation"] | {"gone": [2]}}
    assert from_dict(older) == config  # a key that this version lacks stops no old checkpoint, but is told
    assert "seeed=1" in caplog.text and "evaluation.gone=[2]" in caplog.text


def test_without_a_word_the_backbones_own_layers_listen_and_what_is_stored_names_them():
    """So digests of what was made before, when the default was the decoder by name, stay what they are."""
    for given, wanted in (([], ["decoder"]), (["denoiser.kind=audioldm2"], ["decoder"]), (["denoiser.kind=ace_step"], ["all"])):
        config = load_config("tiny", ["synapse.kind=concat", *given])
        assert config.synapse.layers == wanted and from_dict(to_dict(config)) == config
    tree = to_dict(load_config("tiny"))
    assert from_dict(tree | {"synapse": tree["synapse"] | {"layers": []}}) == load_config("tiny")
    named = load_config("tiny", ["denoiser.kind=ace_step", "synapse.kind=concat", "synapse.layers=[second]"])
    assert named.synapse.layers == ["second"]


OPEN = ("ace_step", "audioldm2", "stable_audio_open", "stable_audio_3")


def of_its_kind(name):
    """Overrides that choose a published model, and nothing of how it is sampled."""
    config = load_config(name)
    kinds = [f"{section}.kind={getattr(config, section).kind}" for section in ("diffusion", "conditioner", "codec", "denoiser")]
    return config, ["denoiser.weights=models/there", *kinds, "synapse.kind=none"]


@pytest.mark.parametrize("name", OPEN)
def test_a_published_model_brings_how_it_is_sampled_where_nothing_else_is_said(name):
    config, chosen = of_its_kind(name)
    own = {key: value for key, value in config.denoiser.OWN.items() if key not in ("diffusion.kind", "conditioner.kind")}
    flat = flatten(to_dict(load_config("base", chosen)))
    assert {key: flat[key] for key in own} == own
    said = load_config("base", [*chosen, "sampling.num_inference_steps=7"]).sampling
    assert said.num_inference_steps == 7 and said.sampler == own["sampling.sampler"]
    plain = load_config("base", [*chosen, "denoiser.weights=null", f"sampling.sampler={config.diffusion.SAMPLERS[0]}"])
    assert plain.sampling.num_inference_steps == 25  # a model that is trained from nothing has none
    assert plain.diffusion == type(plain.diffusion)(kind=plain.diffusion.kind)


@pytest.mark.parametrize("name", OPEN)
def test_configurations_of_open_generators_sample_as_their_model_was_made_to_be(name):
    config = load_config(name)
    flat, own = flatten(to_dict(config)), config.denoiser.OWN
    if name == "ace_step":
        own = own | {"sampling.guidance_scale": 1.0}  # of the turbo weights
    assert {key: flat[key] for key in own} == own


def test_a_sampler_that_cannot_be_had_has_another_in_its_place(monkeypatch, caplog):
    assert load_config("audioldm2,tiny").sampling.sampler == "ddim"  # twins have no scheduler
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_config("stable_audio_open").sampling.sampler == "dpm" and "melfusion[sde]" in caplog.text


def test_valid_keys_are_all_leaves_of_the_schema():
    keys = valid_keys(Config)
    assert {"name", "data.precompute.dtype", "data.splits", "optim.betas"} <= set(keys)
    assert "data" not in keys and "data.precompute" not in keys and len(keys) == len(set(keys))


def test_a_path_is_taken_as_it_is_and_a_name_from_the_package(write):
    mine = write("tiny", "seed: 3")
    assert str(config_path(mine)) == mine and config_path("tiny") == CONFIG_DIR / "tiny.yaml"
    assert load_config(mine).seed == 3


@pytest.mark.parametrize("name", SHIPPED)
def test_every_repository_of_the_hub_is_pinned_to_a_commit(name):
    pinned = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}(:[\w./-]+)?")
    tree = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text())
    named = [*(tree.get("sources") or {}).values(), *(w.removeprefix("hub:") for w in strings(tree) if w.startswith("hub:"))]
    assert [one for one in named if not pinned.fullmatch(one)] == []
    assert named or name not in (*OPEN, "audioldm", "melfusion")


def strings(tree):
    """All texts of a tree."""
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in strings(value)]
    return [tree] if isinstance(tree, str) else []
