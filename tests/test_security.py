"""Nothing that data, indexes or weights bring along is run: a static rule over the source, and traps that stay shut."""

import contextlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from code_rules import of_tree, violations
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence, sound, tone
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save, save_file
from transformers import AutoTokenizer, CLIPTextModel

import melfusion
from melfusion.data import stream
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.index import write_index
from melfusion.data.options import DataConfig
from melfusion.data.reading import decode_sample, read_cached, read_meta
from melfusion.data.shards import ShardSet
from melfusion.errors import BadSample, DataError, WeightsError
from melfusion.media.options import AudioConfig
from melfusion.media.pictures import open_image
from melfusion.media.sound import read_audio
from melfusion.models.published import load_part, loaded, pretrained, read_part, stored_schedule, tango_state

SOURCE = Path(melfusion.__file__).parent
LIMITS = DataConfig()

# --- the rule ---------------------------------------------------------------------------------------------------------


def test_the_source_keeps_the_rule():
    # the one shell runs `pipe:` commands that the user wrote into data.stream
    assert {path: [v.split(": ")[1] for v in found] for path, found in of_tree(SOURCE).items()} == {
        "data/stream.py": ["shell=True"]
    }


PLANTED = [
    "import pickle\npickle.load(f)",
    "from pickle import loads",
    "import dill as d",
    "import marshal",
    "import shelve",
    "import torch\ntorch.load(f)",
    "import torch\ntorch.load(f, weights_only=False)",
    "import torch as t\nt.load(f, weights_only=w)",
    "from torch import load\nload(f)",
    "from torch import load as get\nget(f, weights_only=0)",
    "import torch\ntorch.hub.load('a', 'b')",
    "from torch import hub",
    "import torch\ntorch.serialization.add_safe_globals([x])",
    "eval('1')",
    "exec(text)",
    "__import__(name)",
    "import yaml\nyaml.load(f, Loader=yaml.Loader)",
    "import yaml\nyaml.unsafe_load(f)",
    "from yaml import full_load\nfull_load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=True)",
    "import numpy\nnumpy.load(f, allow_pickle=flag)",
    "import subprocess\nsubprocess.run(c, shell=True)",
    "import os\nos.system(c)",
    "AutoModel.from_pretrained(x, trust_remote_code=True)",
    "f(**{'trust_remote_code': yes})",
    "kwargs['trust_remote_code'] = True",
    "import webdataset as wds\nwds.utils.enforce_security = False",
]


@pytest.mark.parametrize("code", PLANTED)
def test_the_rule_sees_what_breaks_it(code):
    assert violations(code), code


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import yaml\nyaml.safe_load(f)",
        "import numpy as np\nnp.load(f)",
        "import subprocess\nsubprocess.run(c)",
        "model.eval()",
        "re.compile(x)",
        "f(trust_remote_code=False)",
    ],
)
def test_the_rule_lets_pass_what_is_safe(code):
    assert not violations(code)


def test_webdataset_enforces_its_security_wherever_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset.utils, "enforce_security", False)
    data_set(tmp_path, [make_sample("a")])
    assert webdataset.utils.enforce_security
    monkeypatch.setattr(webdataset.utils, "enforce_security", False)
    next(iter(stream.StreamingDataset(DataConfig(stream=[str(tmp_path / "train-000000.tar")]), AudioConfig(), 0, {}, 0, 1)))
    assert webdataset.utils.enforce_security


def test_importing_changes_no_library():
    look = "import webdataset, PIL.Image; found = webdataset.utils.enforce_security, PIL.Image.MAX_IMAGE_PIXELS\n"
    ours = ", ".join(f"melfusion.{name}" for name in ("data.stream", "data.manifest.build", "data.games.clips", "media.file_kinds"))
    code = f"{look}before = found\nimport {ours}\n{look}assert found == before, found"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path):
    """trap() → an object whose unpickling writes a file; no test may leave that file."""
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return open, (str(sprung), "w")

    yield Trap
    assert not sprung.exists()


def torch_file(path, payload):
    torch.save(payload, path)
    return path


def weights_error(call, *args):
    with pytest.raises(WeightsError) as caught:
        call(*args)
    return one_sentence(caught.value)


def test_a_published_file_that_is_more_than_weights_is_refused(trap, tmp_path):
    for payload in ({"unet.w": trap()}, [trap()], {"unet.w": torch.zeros(1), "x": {"y": (trap(),)}}):
        message = weights_error(tango_state, torch_file(tmp_path / "model.bin", payload))
        assert str(tmp_path / "model.bin") in message and "weights alone" in message
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(trap()))
    assert "weights alone" in weights_error(tango_state, tmp_path / "bare.bin")


def test_library_folders_with_a_trapped_bin_are_refused(trap, tmp_path):
    UNet2DConditionModel(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).save_config(tmp_path / "unet")
    torch_file(tmp_path / "unet" / "diffusion_pytorch_model.bin", {"conv_in.weight": trap()})
    message = weights_error(pretrained, UNet2DConditionModel, tmp_path / "unet")
    assert str(tmp_path / "unet") in message and "Unable to load weights" in message
    (tmp_path / "clip").mkdir()
    sizes = {
        "model_type": "clip_text_model",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    (tmp_path / "clip" / "config.json").write_text(json.dumps(sizes))
    torch_file(tmp_path / "clip" / "pytorch_model.bin", {"text_model.final_layer_norm.weight": trap()})
    message = weights_error(pretrained, CLIPTextModel, tmp_path / "clip")
    assert str(tmp_path / "clip") in message and "Weights only load failed" in message


def test_code_in_a_weights_folder_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Evil: pass\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nosuch", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asked whether to run the code"))
    weights_error(loaded, AutoTokenizer, tmp_path)
    assert not (tmp_path / "sprung").exists()


def one_tensor(shape, end):
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(text)) + text + b"1234"


HEADERS = {
    "huge": struct.pack("<Q", 2**63) + b"{}",
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "no json": struct.pack("<Q", 4) + b"abcd",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "offsets": one_tensor([4], 2**40),
    "shape": one_tensor([2**40, 2**40], 4),
    "empty": b"",
    "pickle": pickle.dumps([1]),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_safetensors_are_refused(kind, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(HEADERS[kind])
    assert str(tmp_path) in weights_error(load_part, torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(BadSample, match="latents.safetensors"):
        read_cached(HEADERS[kind], LIMITS)


@pytest.mark.parametrize("text", ["[]", "null", "1", '{"audio": 1, "sizes": []}', '{"audio": {}}', "[" * 100_000, "{", "\x00"])
def test_hostile_part_files_are_refused(text, tmp_path):
    (tmp_path / "part.json").write_text(text)
    assert "part.json" in weights_error(read_part, tmp_path)
    assert "part.json" in weights_error(stored_schedule, tmp_path / "part.json")


# --- shards and indexes -----------------------------------------------------------------------------------------------


def data_error(call, *args):
    with pytest.raises(DataError) as caught:
        call(*args)
    return one_sentence(caught.value)


def edited(folder, change):
    tree = json.loads((folder / "index.json").read_text())
    change(tree)
    (folder / "index.json").write_text(json.dumps(tree))


def places(tree):
    return tree["shards"][0]["samples"][0]["members"]


HOSTILE = {
    "a shard above": lambda t: t["shards"][0].update(name="../train-000000.tar"),
    "a shard at the root": lambda t: t["shards"][0].update(name="/etc/x.tar"),
    "a shard that is no tar": lambda t: t["shards"][0].update(name="passwd"),
    "no name": lambda t: t["shards"][0].pop("name"),
    "a name twice": lambda t: t["shards"].append(t["shards"][0]),
    "a key above": lambda t: t["shards"][0]["samples"][0].update(key="../evil"),
    "a key with a dot": lambda t: t["shards"][0]["samples"][0].update(key="a.b"),
    "a key of two lines": lambda t: t["shards"][0]["samples"][0].update(key="a\nb"),
    "half a code point": lambda t: t["shards"][0]["samples"][0].update(key="\ud800"),
    "a key that is a list": lambda t: t["shards"][0]["samples"][0].update(key=["a"]),
    "an extension above": lambda t: places(t).update({"x/../../y": [512, 1]}),
    "a negative offset": lambda t: places(t).update(json=[-5, 3]),
    "a negative length": lambda t: places(t).update(json=[512, -3]),
    "a place beyond the end": lambda t: places(t).update(json=[512, 2**40]),
    "a place in front": lambda t: places(t).update(json=[0, 3]),
    "a place that is a text": lambda t: places(t).update(json="512"),
    "numbers with a point": lambda t: places(t).update(json=[512.0, 3.0]),
    "three numbers": lambda t: places(t).update(json=[512, 3, 4]),
    "truth for a number": lambda t: t["shards"][0].update(bytes=True),
    "no digest": lambda t: t["shards"][0].update(sha256="x"),
    "samples that are a dict": lambda t: t["shards"][0].update(samples={}),
    "a sample that is a number": lambda t: t["shards"][0].update(samples=[1]),
    "info that is a list": lambda t: t.update(info=[]),
    "shards that are a text": lambda t: t.update(shards="x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_index_is_an_error(kind, tmp_path):
    folder = data_set(tmp_path, [make_sample("a")])
    edited(folder, HOSTILE[kind])
    assert "index.json is damaged" in data_error(ShardSet, folder)


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"version":' * 10**5, b"\xff\xfe", b"1", b'{"version": NaN}', b"9" * 10_000])
def test_an_index_that_is_no_object_is_an_error(text, tmp_path):
    folder = data_set(tmp_path, [make_sample("a")])
    (folder / "index.json").write_bytes(text)
    assert "index.json" in data_error(ShardSet, folder)


def read_all(shards):
    return [shards.read(entry, ext) for entry in shards.entries("train") for ext in entry.members]


LONG = "ü" * 20 + "l" * 120  # a name for a header before the header


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_kind_of_tar_are_known_by_their_headers(form, tmp_path):
    names = ["a.json", "deep/er/b.JSON", "c.tar.gz"] + (
        [f"x/{LONG}.json", f"{LONG}2.json", "ü.json", "y" * 99 + ".json"] if form != tarfile.USTAR_FORMAT else []
    )
    with tarfile.open(tmp_path / "train-0.tar", "w", format=form) as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 10 + i, 1.5
            tar.addfile(info, io.BytesIO(bytes([i]) * (10 + i)))
    write_index(tmp_path)
    assert read_all(ShardSet(tmp_path)) == [bytes([i]) * (10 + i) for i in range(len(names))]


def swap(one, two):
    def change(tree):
        a, b = (tree["shards"][0]["samples"][i]["members"] for i in (0, 1))
        a[one], b[two] = b[two], a[one]

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap("json", "json"),
        swap("wav", "wav"),
        lambda t: places(t).update(wav=places(t)["json"]),
        lambda t: places(t).update(json=[places(t)["json"][0] + 512, places(t)["json"][1]]),
        lambda t: places(t).update(json=[places(t)["json"][0], places(t)["json"][1] - 1]),
        lambda t: t["shards"][0]["samples"][0].update(key="other"),
    ],
)
@pytest.mark.parametrize("key", ["a", LONG])
def test_an_index_that_is_stale_is_an_error_not_a_bad_sample(change, key, tmp_path, tiny):
    """Files of the same size, but not of the same content: keys of samples would be swapped in silence."""
    folder = data_set(tmp_path, [make_sample(key), make_sample(key[:-1] + "b")])
    edited(folder, change)
    assert re.search("is stale: train-000000.tar holds no member", data_error(read_all, ShardSet(folder)))
    config = tiny(f"data.path={folder}", "data.global_batch_size=2")
    module = MusicDataModule(config.data, config.audio)
    assert "melfusion shards" in data_error(lambda: [next(iter(module.train_dataloader())) for _ in range(3)])


def test_a_precomputed_shard_with_a_stale_index_is_an_error(tmp_path):
    samples = [make_sample(key, audio=b"") for key in "ab"]
    for i, sample in enumerate(samples):
        sample.extra["latents.safetensors"] = save({"x": torch.full((3,), float(i))})
    folder = data_set(tmp_path, samples)
    edited(folder, swap("latents.safetensors", "latents.safetensors"))
    assert "stale" in data_error(read_all, ShardSet(folder))


def test_a_shard_cut_while_it_is_read_is_an_error(tmp_path):
    shards = ShardSet(data_set(tmp_path, [make_sample("a")]))
    os.truncate(tmp_path / "train-000000.tar", 2000)
    assert "stale" in data_error(read_all, shards)
    (tmp_path / "train-000000.tar").unlink()
    assert "cannot be read" in data_error(read_all, shards)


def header(name, size, kind=b"0", size_field=None):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size_field is not None:
        block[124:136] = size_field
        block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


BACKWARDS = b"\xff" * 11 + b"\x00"  # base-256: −256
TARS = {
    "negative size": header("a.json", 0, size_field=BACKWARDS),
    "negative extended size": header("x", 18, b"x") + b"18 size=-100000000\n"[:18].ljust(512, b"\0") + header("a.json", 0),
    "long name of a terabyte": header("././@LongLink", 0, b"L", b"\x80" + (2**40).to_bytes(11, "big")),
    "extended header of 8 MB": header("x", 8 << 20, b"x") + b"9" * (8 << 20),
    "chain of extended headers": (header("x", 9, b"x") + b"9 a=bcde\n".ljust(512, b"\0")) * 3000,
    "sparse file": header("a.json", 512, b"S"),
    "bad header in the middle": header("a.json", 0) + b"\1" * 512 + header("b.json", 0),
    "link": header("a.json", 0, b"2") + b"\0" * 100,
    "size beyond all ends": header("a.json", 0, size_field=b"\x80" + (2**80).to_bytes(11, "big")) + b"\0" * 2048,
    "size beyond the end": header("a.json", 10**6) + b"\0" * 2048,
}


@pytest.mark.parametrize("kind", TARS)
def test_hostile_tars_are_errors_for_index_and_stream(kind, tmp_path):
    (tmp_path / "train-000000.tar").write_bytes(TARS[kind])
    assert "train-000000.tar" in data_error(write_index, tmp_path)
    assert "train-000000.tar" in data_error(list, stream.tar_samples(str(tmp_path / "train-000000.tar"), LIMITS))


def test_a_shard_with_more_members_than_the_limit_is_an_error(tmp_path):
    folder = data_set(tmp_path, [make_sample(key) for key in "abc"])
    assert "data.max_shard_members=5" in data_error(ShardSet, folder, DataConfig(max_shard_members=5))
    ShardSet(folder, DataConfig(max_shard_members=6))


# --- samples above a limit --------------------------------------------------------------------------------------------


def reason(call, *args):
    with pytest.raises(BadSample) as caught:
        call(*args)
    return str(caught.value)


def decode(members, **limits):
    config = DataConfig(**{"image_size_px": 8, **limits})
    return decode_sample("k", members, members.__getitem__, 0.0, AudioConfig(clip_duration_s=1.0, sample_rate_hz=8000), config)


def test_limits_of_json():
    with pytest.raises(BadSample, match="json larger than data.max_json_kib=2"):
        decode({"json": b" " * 2048 + b"{}"}, max_json_kib=2)

    def deep(n):
        return b'{"a": ' * n + b"1" + b"}" * n

    assert read_meta(deep(16), LIMITS)
    for text in (deep(17), b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}"):
        assert reason(read_meta, text, LIMITS) == "json nested deeper than data.max_json_depth=16"
    assert reason(read_meta, b'{"a":' + b"[" * 10**5, LIMITS) == "unreadable json"
    assert reason(read_meta, b'{"labels": [1]}', LIMITS) == "labels are not an object"
    assert reason(read_meta, b'{"a": ' + b"9" * 5000 + b"}", LIMITS) == "unreadable json"


def test_limits_of_members(tmp_path, tiny):
    many = {"json": b"{}"} | {f"x{i}": b"" for i in range(64)}
    with pytest.raises(BadSample, match="more members than data.max_sample_members=64"):
        decode(many)
    folder = data_set(tmp_path, [make_sample("a", audio=b"\0" * 5000), make_sample("b", audio=sound(tone(0.2, 8000)))])
    small = DataConfig(max_member_mib=4000 / 2**20)
    shards = ShardSet(folder, small)
    entry = shards.entries("train")[0]
    assert reason(shards.read, entry, "wav").startswith("member larger than data.max_member_mib")
    found = dict(stream.tar_samples(str(folder / "train-000000.tar"), small))
    assert isinstance(found["a"], BadSample) and "data.max_member_mib" in str(found["a"]) and set(found["b"]) == {"json", "wav"}
    assert "data.max_sample_members=1" in str(
        dict(stream.tar_samples(str(folder / "train-000000.tar"), DataConfig(max_sample_members=1)))["b"]
    )


def test_limits_of_sound():
    audio = AudioConfig(sample_rate_hz=8000)
    assert len(read_audio(sound(np.zeros((8000, 32)), 8000), audio)) == 8000
    assert "data.max_audio_channels=32" in reason(read_audio, sound(np.zeros((8000, 33)), 8000), audio)
    for rate in (100, 192_001):
        assert "data.max_audio_rate_hz=192000" in reason(read_audio, sound(np.zeros(2000), rate), audio)


def test_sound_that_promises_more_than_it_holds_costs_no_memory():
    """A FLAC header may name 2³⁶ samples: 1,200 s of stereo at 192 kHz would be 1.8 GB."""
    data = bytearray(sound(tone(1.0, 8000), 8000, "FLAC"))
    packed = int.from_bytes(data[18:26], "big")  # rate 20 bits, channels 3, bits 5, samples 36
    data[18:26] = (packed >> 36 << 36 | 9_000_000).to_bytes(8, "big")
    tracemalloc.start()
    with contextlib.suppress(BadSample):
        read_audio(bytes(data), AudioConfig(sample_rate_hz=8000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_only_the_first_frame_is_decoded(kind):
    frames = [Image.new("RGB", (16, 16), (250, 0, 0))] + [noise_picture(i, 16, 16) for i in range(40)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    first = open_image(data)
    red = np.asarray(first.convert("RGB"), dtype=int)
    assert first.size == (16, 16) and abs(red - (250, 0, 0)).max() < 12


def cached(key, **changes):
    tensors = {
        "latent_moments": torch.zeros(8, 16, 4),
        "text_embeds": torch.zeros(12, 16),
        "has_image": torch.tensor(1.0),
        "text_mask": torch.ones(12, dtype=torch.uint8),
    } | changes
    sample = make_sample(key, audio=b"")
    sample.extra["latents.safetensors"] = save({k: v for k, v in tensors.items() if v is not None})
    return sample


ODD = {
    "another shape": ({"latent_moments": torch.zeros(8, 16, 5)}, "is laid out unlike the others'"),
    "another type": ({"text_embeds": torch.zeros(12, 16, dtype=torch.float16)}, "is laid out unlike the others'"),
    "one more": ({"image_latents": torch.zeros(2)}, "is laid out unlike the others'"),
    "one fewer": ({"text_mask": None}, "lacks tensors"),
    "not finite": ({"text_embeds": torch.full((12, 16), torch.inf)}, "holds NaN or infinity"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("place", [0, 3])
def test_a_precomputed_sample_unlike_the_others_is_replaced(kind, place, tmp_path, tiny):
    changes, why = ODD[kind]
    samples = [cached(key, **(changes if i == place else {})) for i, key in enumerate("abcdef")]
    config = tiny(f"data.path={data_set(tmp_path, samples)}", "data.global_batch_size=6")
    batch = next(iter(MusicDataModule(config.data, config.audio).train_dataloader()))
    assert batch.latent_moments.shape == (6, 8, 16, 4)
    assert {r for _, r in batch.replaced} == {f"latents.safetensors {why}"}


def test_precomputed_members_among_raw_samples_are_replaced_and_the_other_way_round(tmp_path, tiny):
    for name, odd, usual in (("raw", cached("odd"), make_sample), ("cached", make_sample("odd"), cached)):
        folder = data_set(tmp_path / name, [odd, *map(usual, "abc")])
        config = tiny(f"data.path={folder}", "data.global_batch_size=4")
        batch = next(iter(MusicDataModule(config.data, config.audio).train_dataloader()))
        assert "odd" not in batch.keys and len(batch.replaced) >= 1


# --- the stream -------------------------------------------------------------------------------------------------------


def test_a_key_that_leads_upwards_is_only_its_last_part(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../../etc/evil.json", "/etc/evil.wav", "../..", ".hidden.json"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    assert list(stream.tar_samples(str(tmp_path / "a.tar"), LIMITS)) == [("evil", {"json": b"{}", "wav": b"{}"})]
    assert [p.name for p in tmp_path.rglob("*")] == ["a.tar"]


@pytest.mark.parametrize("cut", range(512, 10240, 512))
def test_a_tar_cut_anywhere_is_an_error_while_streaming(cut, tmp_path):
    samples = [make_sample(key, audio=sound(tone(0.1, 8000))) for key in "abc"]
    data = (data_set(tmp_path, samples) / "train-000000.tar").read_bytes()
    end = len(data.rstrip(b"\0")) + 512
    if cut < end:
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        assert "cut.tar" in data_error(list, stream.tar_samples(str(tmp_path / "cut.tar"), LIMITS))


def test_a_pickle_in_a_stream_is_never_read(trap, tmp_path):
    sample = make_sample("a", audio=sound(tone(1.0, 8000)))
    sample.extra |= {ext: pickle.dumps(trap()) for ext in ("pyd", "pkl", "pth", "pickle", "npy")}
    ((_, raw),) = stream.tar_samples(str(data_set(tmp_path, [sample]) / "train-000000.tar"), LIMITS)
    assert raw["pyd"] == raw["npy"] == b"" and decode(raw)["key"] == "k"


# --- the main job without a network -----------------------------------------------------------------------------------

NO_SOCKETS = """
import socket, sys
import urllib3.util.connection  # while it is imported it looks whether this machine has IPv6, which sends nothing
class Closed(socket.socket):
    def __init__(self, family=socket.AF_INET, *args, **kwargs):
        if family != socket.AF_UNIX:
            open({log!r}, "a").write("socket\\n")
            raise OSError("a socket was opened")
        super().__init__(family, *args, **kwargs)
def refuse(*args, **kwargs):
    open({log!r}, "a").write("address\\n")
    raise OSError("a name was looked up")
socket.socket, socket.create_connection, socket.getaddrinfo = Closed, refuse, refuse
{planted}
from melfusion.__main__ import main
sys.exit(main(["train", "scenes,tiny", "runs_dir={runs}", "data.path={data}", "data.draw=true",
               "trainer.media_items=1"]))
"""


def run_without_sockets(tmp_path, planted=""):
    log = tmp_path / "sockets"
    code = NO_SOCKETS.format(log=str(log), runs=tmp_path / "runs", data=tmp_path / "data", planted=planted)
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    return done, log.read_text() if log.exists() else ""


def test_the_main_job_opens_no_socket(tmp_path):
    done, opened = run_without_sockets(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not opened and (tmp_path / "runs" / "scenes-tiny" / "results.json").is_file()


@pytest.mark.slow  # the planted defect of a fast test
def test_a_socket_in_the_main_job_would_be_seen(tmp_path):
    planted = textwrap.dedent("""
        from melfusion.data import sources as corpus
        def ensure(config): socket.create_connection(("127.0.0.1", 9))
        corpus.ensure_corpus = ensure""")
    done, opened = run_without_sockets(tmp_path, planted)
    assert done.returncode != 0 and "address" in opened


def test_what_is_saved_for_tests_is_what_the_helpers_say(tmp_path):
    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    load_part(torch.nn.Linear(2, 2), tmp_path)  # the refusals above are not for lack of a loader that works
