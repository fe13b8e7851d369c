"""The figures of `melfusion bench` are the measured ones: what is planted to be slow is seen, where it is."""

import json
import time
import types

import building as build
import pytest
import torch

from melfusion.__main__ import main
from melfusion.assembly.configuration import override
from melfusion.bench import counting, fitting, machine, report, setting
from melfusion.bench.comparing import Slower
from melfusion.bench.fitting import turns
from melfusion.bench.generation import Clips
from melfusion.bench.options import SECTIONS, SIZES, Size
from melfusion.bench.report import bench
from melfusion.bench.timing import Figure, alternated, figure, peak_memory, speed
from melfusion.bench.training import BareLoop
from melfusion.data.reading import SampleReader
from melfusion.errors import ConfigError
from melfusion.models.mel_codec import MelCodec


@pytest.fixture
def small_turns(monkeypatch):
    """A size of two blocks of three steps."""
    monkeypatch.setitem(SIZES, "tiny", Size("tiny", (), rounds=2, steps=3, clips=2, clip_rounds=1))


@pytest.fixture
def training(tiny, tiny_corpus, tmp_path, small_turns):
    """Configuration of a small training on the data set of the tests."""
    return tiny(
        f"data.path={tiny_corpus}",
        "data.source=manifest",
        f"runs_dir={tmp_path / 'runs'}",
        "trainer.media_items=0",
        "trainer.val_every_n_steps=1000",
        "data.crop=start",
    )


@pytest.fixture
def section(monkeypatch):
    """section(seconds) registers a section `planted` whose one call sleeps so long."""

    def plant(seconds):
        module = types.ModuleType("planted")
        work = {"work": lambda: time.sleep(seconds)}
        module.measure = lambda size, folder: {"work": speed(alternated(work, 5)["work"], 1), "memory MiB": 3}
        monkeypatch.setitem(SECTIONS, "planted", "planted")
        monkeypatch.setitem(__import__("sys").modules, "planted", module)

    return plant


def written(path):
    return json.loads(path.read_text())


# --- the table, the file and what is compared ---------------------------------------------------------------------------


def test_a_planted_slow_down_is_seen_and_noise_is_not(section, tmp_path, capsys):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    section(0.02)
    bench("tiny", ["planted"], str(before))
    bench("tiny", ["planted"], str(now), compare=str(before))
    section(0.04)
    with pytest.raises(Slower, match=r"planted / work 4\d\.?\d* → 2\d\.?\d* samples/s"):
        bench("tiny", ["planted"], str(now), compare=str(before))
    assert written(now)["sections"]["planted"]["work"]["median"] < 25  # it is written before it is judged
    section(0.02)
    bench("tiny", ["planted"], "", compare=str(now))  # faster is no error
    assert capsys.readouterr().out.count("planted     work") == 4


def test_the_verb_ends_with_code_2_where_something_became_slower(section, tmp_path, capsys):
    before = tmp_path / "before.json"
    section(0.01)
    assert main(["bench", "only=planted", f"out={before}"]) == 0
    section(0.03)
    assert main(["bench", "only=planted", f"out={tmp_path / 'now.json'}", f"compare={before}"]) == 2
    assert "planted / work" in capsys.readouterr().err


def test_each_figure_of_the_file_follows_from_its_raw_values(section, tmp_path):
    section(0.005)
    bench("tiny", ["planted"], str(tmp_path / "a.json"))
    tree = written(tmp_path / "a.json")
    work = tree["sections"]["planted"]["work"]
    assert len(work["values"]) == 5 and work["median"] == sorted(work["values"])[2] and 100 < work["median"] < 200
    assert work["quartiles"] == [sorted(work["values"])[1], sorted(work["values"])[3]]
    assert tree["sections"]["planted"]["memory MiB"] | {"setting": 0} == {
        "unit": "MiB",
        "values": [3.0],
        "ratio": None,
        "of_peak": None,
        "of_floor": None,
        "setting": 0,
        "median": 3.0,
        "quartiles": [3.0, 3.0],
    }
    assert tree["torch"] == torch.__version__ and tree["size"] == "tiny" and tree["seconds"].keys() == {"planted"}


@pytest.mark.parametrize("key", ["size", "device"])
def test_a_file_of_another_size_or_device_is_refused(section, tmp_path, key):
    section(0.0)
    bench("tiny", ["planted"], str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text(json.dumps(written(tmp_path / "a.json") | {key: "another"}))
    with pytest.raises(ConfigError, match=f"measured with {key} another"):
        bench("tiny", ["planted"], "", compare=str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "given, words",
    [
        (["size=smal"], "size=smal is not one of tiny, small, full; did you mean 'small'"),
        (["only=machine,loading"], "only=loading is not one of"),
        (["compare=none.json"], "compare=none.json is no file"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given, words, capsys, tmp_path):
    assert main(["bench", *given, f"out={tmp_path / 'a.json'}"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_is_refused_without_a_gpu():
    with pytest.raises(ConfigError, match="size=full needs a GPU of 70 GiB, and there is none: give size=small"):
        bench("full", ["machine"])


def test_sections_run_alone(monkeypatch):
    monkeypatch.setattr(machine, "LONG_ENOUGH_S", 0.0)
    machine.peaks.cache_clear()
    tree = bench("tiny", ["machine"])
    assert tree["sections"].keys() == {"machine"} and tree["sections"]["machine"].keys() == {"matmul fp32", "matmul bf16"}
    machine.peaks.cache_clear()


def test_words_units_and_directions():
    rate = Figure("samples/s", [1.0, 2.0, 3.0], ratio=3.21, of_peak=0.5, of_floor=0.25)
    assert rate.words() == "2 samples/s (1.5 to 2.5), ratio 3.2×, 50.0% of the matmul peak, 25.0% of the counted floor"
    units = {"raw samples/s": "samples/s", "million start MiB": "MiB", "million start s": "s", "random over sequential": ""}
    assert {name: figure(name, 1).unit for name in units} == units
    assert report.lines("loader", {"start s": figure("start s", 2)}) == ["loader      start s  2 s"]


def test_ratio_and_shares_are_those_of_the_measured_peak(monkeypatch):
    figures = {"fp32": Figure("TFLOP/s", [1.0, 2.0]), "bf16": Figure("TFLOP/s", [4.0])}
    monkeypatch.setattr(machine, "peaks", lambda: figures)
    rate = machine.shares(Figure("samples/s", [10.0]), flops=1e11, floor=4e10, precision="32-true")
    assert (rate.of_peak, rate.of_floor) == (pytest.approx(0.5), pytest.approx(0.1))
    assert machine.shares(Figure("samples/s", [10.0]), 1e11, 4e10, "bf16-mixed").of_peak == pytest.approx(0.25)
    assert machine.ratio(rate, Figure("samples/s", [2.0]), Figure("samples/s", [5.0])).ratio == 2


def test_calls_take_turns():
    seen = []
    alternated({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == list("ababab")


def test_peak_memory_sees_what_was_held_and_given_back():
    with peak_memory() as peak:
        torch.ones(64, 2**20).sum()  # 256 MiB
    assert 200 < peak.mib < 400


# --- training ------------------------------------------------------------------------------------------------------------


class Quick:
    """A loop that takes so many seconds a step."""

    def __init__(self, seconds=0.001):
        self.seconds, self.calls = seconds, []

    def run(self, steps):
        self.calls.append(steps)
        time.sleep(self.seconds * steps)


def test_the_trainer_and_the_loop_take_turns_and_a_slow_loader_is_seen_as_waiting(training, monkeypatch):
    loop = Quick(0.01)
    found = turns(training, "tiny", loop, "quick")
    assert loop.calls == [3, 3] and len(found.seconds) == len(found.others) == len(found.waited) == 2
    assert all(0.03 <= s < 0.06 for s in found.others) and len(found.saves) >= fitting.SAVES
    shares = [w / s for w, s in zip(found.waited, found.seconds, strict=True)]
    read = SampleReader.__call__
    monkeypatch.setattr(SampleReader, "__call__", lambda *args: [time.sleep(0.05), read(*args)][1])
    slow = turns(training, "tiny", loop, "slow")
    waited = [w / s for w, s in zip(slow.waited, slow.seconds, strict=True)]
    assert min(slow.waited) >= 3 * 4 * 0.05 and min(waited) > max(shares)  # three steps of four samples


def test_what_follows_a_step_counts_as_the_trainers_and_writing_a_checkpoint_does_not(training, monkeypatch):
    plain = turns(training, "tiny", Quick(), "plain")
    monkeypatch.setattr("melfusion.training.scalars.alphas", lambda module: [time.sleep(0.1), {}][1])
    late = turns(training, "tiny", Quick(), "late")
    assert min(late.seconds) > max(plain.seconds)
    monkeypatch.undo()
    monkeypatch.setitem(SIZES, "tiny", Size("tiny", (), rounds=2, steps=3, clips=2, clip_rounds=1))
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", slowed("lightning.Trainer", "save_checkpoint", 1.0))
    saving = turns(training, "tiny", Quick(), "saving")
    assert max(saving.seconds) < 1 <= min(saving.saves)


def slowed(owner, name, seconds):
    module, _, cls = owner.rpartition(".")
    real = getattr(getattr(__import__(module, fromlist=[cls]), cls), name)
    return lambda *args, **kwargs: [time.sleep(seconds), real(*args, **kwargs)][1]


def test_the_bare_loop_trains_and_its_micro_batches_add_up_to_one_step(training):
    at_once = BareLoop(training, build.system(training), 4)
    in_parts = BareLoop(training, build.system(training), 1)
    assert [len(b) for b in at_once.batches] == [4] and [len(b) for b in in_parts.batches] == [1] * 4
    at_once.run(2), in_parts.run(2)
    pairs = list(zip(at_once.model.denoiser.parameters(), in_parts.model.denoiser.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
    first = build.system(training).denoiser.parameters()
    assert any(not torch.equal(a, b) for (a, _), b in zip(pairs, first, strict=True))
    assert at_once.steps == at_once.schedule.last_epoch == 2


# --- the reference, and what is counted ----------------------------------------------------------------------------------


def released(config, *more):
    return override(config, [*setting.REFERENCE, "sampling.num_inference_steps=3", *more])


def test_the_reference_runs_the_image_model_in_each_step_for_each_branch(training):
    config = released(training)
    model = build.system(config).eval()
    rows = {"image": [], "music": []}
    for name, unet in (("image", model.image_encoder.unet), ("music", model.denoiser.unet)):
        unet.register_forward_pre_hook(lambda module, args, name=name: rows[name].append(len(args[0])))
    clip = setting.reference_clip(model, config, "a tune", torch.zeros(1, 3, 16, 16))
    assert rows == {"image": [2] * 3, "music": [2] * 3} and clip.shape[0] == 1
    assert config.trainer.precision == "32-true" and config.image.reading == "noised"
    assert "sampling.num_inference_steps=200" in setting.REFERENCE


def test_flops_are_counted_without_memory_and_leave_the_system_as_it_is(training):
    config = released(training)
    model = build.system(config).eval()
    twin = counting.on_meta(model)
    assert all(t.is_meta for t in [*twin.parameters(), *twin.buffers()])
    assert all(not t.is_meta for t in [*model.parameters(), *model.buffers()])
    a, b = torch.empty(3, 5), torch.empty(5, 7)
    assert counting.flops(lambda: a @ b) == 2 * 3 * 5 * 7
    image = torch.zeros(1, 3, 16, 16)
    once = counting.of_a_clip(model, image, 1)
    ten, both = counting.of_a_clip(model, image, 10), counting.of_a_clip(model, image, 10, setting.denoise_both)
    assert ten > 9 * (once - counting.of_a_clip(model, image, 0)) and both > ten  # the picture is read for a second branch
    batch = setting.batches(config, model, 2)[0]
    assert counting.of_a_sample(model, batch) > 0 and all(p.grad is None for p in model.parameters())


# --- generation ----------------------------------------------------------------------------------------------------------


def test_the_stages_of_a_clip_add_up_and_a_slow_one_is_seen_where_it_is(training, monkeypatch):
    config = override(training, ["image.reading=fixed"])
    clips = Clips(config, build.system(config), 2, "a tune", torch.zeros(1, 3, 16, 16))
    assert clips().shape[0] == 2
    decode = MelCodec.decode
    monkeypatch.setattr(MelCodec, "decode", lambda self, latents: [time.sleep(0.3), decode(self, latents)][1])
    clips()
    before, now = ({stage: seconds[i] for stage, seconds in clips.seconds.items()} for i in range(2))
    assert now["decode"] > 0.3 > max(now[stage] for stage in now if stage != "decode") and before["decode"] < 0.3
    assert clips.total()[1] == pytest.approx(sum(now.values()))


# --- all of it -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # a minute and more of all sections at their real sizes
def test_tiny_ends_in_two_minutes_of_two_cores(tmp_path):
    started = time.process_time()
    tree = bench("tiny", ["machine", "training", "generation", "precompute"], str(tmp_path / "a.json"))
    assert time.process_time() - started < 180
    training, generation = tree["sections"]["training"], tree["sections"]["generation"]
    for way in ("live", "cached"):
        assert training[f"{way}: Trainer, batch 32"]["ratio"] > 0
        assert len(training[f"{way}: Trainer, over the bare loop"]["values"]) == SIZES["tiny"].rounds
    assert training["cached: bare loop, batch 32"]["setting"]["TFLOP"] < training["live: bare loop, batch 32"]["setting"]["TFLOP"]
    assert generation["reference"]["setting"]["steps"] == 200 and generation["one clip"]["ratio"] > 1
