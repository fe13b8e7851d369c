"""Conditioners of published models: what they take, what stands for no text, and the folders they are built from."""

from operator import itemgetter

import pipelines
import pytest
import torch
from data_fixtures import one_sentence
from safetensors.torch import save_file

from melfusion.assembly import published
from melfusion.assembly.conditioner import BUILD
from melfusion.errors import ConfigError, WeightsError
from melfusion.models.conditioner import number

NAMES = ("stable_audio", "stable_audio_3", "ace_step", "audioldm", "audioldm2")
FOLDERS = {
    "stable_audio": {"text_encoder": "network", "tokenizer": "tokenizer", "projection_model": "projection"},
    "stable_audio_3": {"text_encoder": "network", "tokenizer": "tokenizer", "duration_embedder": "embedder"},
    "ace_step": {"text_encoder": "network", "tokenizer": "tokenizer", "condition_encoder": "encoder"},
    "audioldm": {"text_encoder": "network", "tokenizer": "tokenizer"},
    "audioldm2": {
        "text_encoder_2": "network",
        "tokenizer_2": "tokenizer",
        "text_encoder": "clap",
        "tokenizer": "clap_tokenizer",
        "projection_model": "projection",
        "language_model": "writer",
    },
}


@pytest.fixture(scope="module", params=NAMES)
def made(request):
    config, conditioner, _ = pipelines.parts_of(request.param)
    return request.param, config, conditioner


def same(one, other):
    for name, tensor in one.said().items():
        torch.testing.assert_close(tensor, other.said()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_shapes_never_change_and_no_prompt_depends_on_what_stands_beside_it(made):
    _, _, conditioner = made
    captions = ["rain", "a much longer one", ""]
    prompt = conditioner(captions)
    assert prompt.text_embeds.shape == (3, conditioner.length, conditioner.width)
    rows = [slice(i, i + 1) for i in range(3)]
    for caption, row in zip(captions, rows, strict=True):
        same(conditioner([caption]), prompt.map_tensors(itemgetter(row)))
    shapes = [{name: t.shape for name, t in p.said().items()} for p in (prompt, conditioner.without_text(prompt))]
    assert shapes[0] == shapes[1]


def test_the_empty_caption_is_no_text(made):
    _, _, conditioner = made
    prompt = conditioner(["", "rain"])
    null = conditioner.without_text(prompt)
    same(null.map_tensors(lambda t: t[:1]), prompt.map_tensors(lambda t: t[:1]))
    assert (null.text_embeds[1] - prompt.text_embeds[1]).abs().max() > 0.01


def test_each_model_has_its_own_way_to_see_no_text():
    made = {name: pipelines.parts_of(name)[1] for name in ("stable_audio", "stable_audio_3", "ace_step")}
    prompts = {name: c(["rain"], [{c.duration: 5}]) for name, c in made.items()}
    nulls = {name: made[name].without_text(prompt) for name, prompt in prompts.items()}
    assert not nulls["stable_audio"].text_embeds.any()
    assert torch.equal(nulls["ace_step"].text_embeds[0, 3], made["ace_step"].encoder.null_condition_emb[0, 0])
    assert torch.equal(nulls["stable_audio_3"].text_embeds[:, -1], prompts["stable_audio_3"].extra["global"])
    for name in ("stable_audio", "stable_audio_3"):  # the seconds stay
        assert torch.equal(nulls[name].extra["global"], prompts[name].extra["global"])
        assert not torch.equal(prompts[name].extra["global"], made[name](["rain"]).extra["global"])


def test_audioldm2s_empty_caption_is_padded_to_each_length_as_if_it_were_alone():
    _, c, _ = pipelines.parts_of("audioldm2")
    captions = ["a", "rain", "a caption that is cut, for it is far too long"]
    prompt = c(captions)
    null = c.without_text(prompt)
    at_once = pipelines.parts_of("audioldm2")[1]  # as on a GPU, which is not asked for the lengths
    every = at_once.nothing_of(set(range(1, c.max_length + 1)), c.device)
    ids, mask = c.tokenize([""])
    for i, n in enumerate(prompt.text_mask.sum(1).tolist()):
        with torch.no_grad():
            text = c.network(input_ids=ids[:, :n], attention_mask=mask[:, :n]).last_hidden_state
            both = c.projection(c.clap_embeds([""]), text, mask[:, :1], mask[:, :n])
            embeds, seen = both.hidden_states, both.attention_mask
            for _ in range(c.written):
                states = c.writer(inputs_embeds=embeds, attention_mask=seen, use_cache=False).last_hidden_state
                embeds, seen = torch.cat([embeds, states[:, -1:]], 1), torch.cat([seen, seen[:, :1]], 1)
        near = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(null.text_embeds[i, :n], text[0], **near)
        torch.testing.assert_close(null.extra["generated"][i], embeds[0, -c.written :], **near)
        torch.testing.assert_close(every["extra.generated"][n], embeds[0, -c.written :], **near)
        assert not null.text_embeds[i, n:].any() and torch.equal(null.text_mask[i], mask[0].bool())
    assert len({n for n, _ in enumerate(every["extra.generated"]) if every["extra.generated"][n].any()}) == c.max_length


def test_what_a_model_does_not_take_is_refused_with_what_it_takes(made):
    _, _, conditioner = made
    assert conditioner.requests([{}, {}], None) == [{}, {}]
    with pytest.raises(ConfigError, match="colour=red means nothing to this model: it takes ") as error:
        conditioner.requests([{}, {"colour": "red"}], 3.0)
    assert all(name in str(error.value) for name in conditioner.takes)
    if conditioner.duration:
        longer = {conditioner.duration: 9.0}
        assert conditioner.requests([{}, longer], 3.0) == [{conditioner.duration: 3.0}, longer]
        assert conditioner.fields_of([longer | {"colour": "red"}]) == [longer]


def test_a_number_is_read_from_a_table_of_texts():
    assert number({"bpm": "120"}, "bpm", 0) == 120 and number({"bpm": ""}, "bpm", 7) == number({}, "bpm", 7) == 7
    for wrong in ("fast", "-1", "nan", []):
        with pytest.raises(ConfigError, match="^bpm=.* is no number"):
            number({"bpm": wrong}, "bpm", 0)


def test_what_is_asked_for_beside_the_caption_stands_in_ace_steps_text():
    _, c, _ = pipelines.parts_of("ace_step")
    text = c.text("rain", {"bpm": "90.0", "key": "A minor", "duration_s": 12.9})
    assert "# Caption\nrain\n" in text and "- bpm: 90\n- timesignature: N/A\n- keyscale: A minor\n- duration: 12 seconds\n" in text
    assert c.lyrics({"lyrics": "la", "language": "de"}) == "# Languages\nde\n\n# Lyric\nla<|endoftext|>"


def test_a_conditioner_comes_from_the_folder_of_its_pipeline(made, tmp_path):
    name, config, conditioner = made
    for folder, part in FOLDERS[name].items():
        getattr(conditioner, part).save_pretrained(tmp_path / folder)
    config.conditioner.weights = str(tmp_path)
    again = BUILD[name](config).eval()
    same(conditioner(["rain", ""]), again(["rain", ""]))
    (tmp_path / next(iter(FOLDERS[name]))).rename(tmp_path / "other")
    with pytest.raises(WeightsError, match=f"lacks {next(iter(FOLDERS[name]))}: give the whole folder of a pipeline"):
        BUILD[name](config)


def test_a_published_scheduler_comes_with_its_weights_and_must_fit(tmp_path):
    config = pipelines.config_of("audioldm2")
    with pytest.raises(ConfigError, match="sampling.sampler=published needs scheduler"):
        published.scheduler(config)
    scheduler = pipelines.ddim_scheduler()
    scheduler.save_pretrained(tmp_path / "scheduler")
    config.denoiser.weights = str(tmp_path)
    found = published.scheduler(config)
    assert type(found) is type(scheduler) and found.config.steps_offset == 1 and not found.config.set_alpha_to_one
    assert published.own(config)[0]["sampling.guidance_scale"] == 3.5
    assert set(published.differences(config)) == {"sampling.num_inference_steps", "sampling.guidance_scale"}
    config.diffusion.beta_end = 0.012
    with pytest.raises(ConfigError, match=r"was made for diffusion.beta_end=0.0195, and the configuration has others"):
        published.scheduler(config)


def test_weights_in_the_layout_of_their_authors_are_known_and_the_way_to_diffusers_is_told(tmp_path):
    """Stable Audio 3 was published so."""
    (tmp_path / "model_config.json").write_text("{}")
    save_file({"model.model.to_timestep_embed.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = pipelines.config_of("stable_audio_3", f"conditioner.weights={tmp_path}")
    with pytest.raises(WeightsError, match="is weights in Stability AI's own layout: write them in diffusers'") as error:
        BUILD["stable_audio_3"](config)
    one_sentence(error.value)
