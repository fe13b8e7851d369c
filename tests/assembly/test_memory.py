"""Out of memory: one sentence that says what took it and which keys need less; how a step is cut so that it fits."""

import platform
import resource

import building as build
import pytest
import torch
from data_fixtures import one_sentence

from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config
from melfusion.assembly.devices import accumulation, world_size
from melfusion.assembly.load import load_system
from melfusion.assembly.memory import CURES, OutOfMemory, keep_freed_memory, telling_memory
from melfusion.errors import ConfigError
from melfusion.evaluation.clips import make_clips
from melfusion.evaluation.conditions import CONDITIONS
from melfusion.models.device import is_out_of_memory
from melfusion.models.system import MeLFusion
from melfusion.training.run import train
from melfusion.verbs import generate

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 99 bytes. Error code 12 (Cannot allocate memory)"
)


def planted(monkeypatch, owner, name, error=CUDA):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(owner, name, fail)


def test_training_says_what_took_the_memory_and_which_keys_make_it_fit(tiny, tiny_corpus, tmp_path, monkeypatch, capsys):
    options = (f"data.path={tiny_corpus}", f"runs_dir={tmp_path}", "name=job", "trainer.media_items=0")
    system = build.system(tiny(*options))
    planted(monkeypatch, MeLFusion, "training_step")
    assert main(["train", "tiny", *options]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    sizes = [sum(p.numel() * 4 for p in system.parameters() if p.requires_grad is t) / 2**20 for t in (False, True)]
    assert told.startswith(
        "melfusion train: The memory is used up during training (CUDA out of memory; frozen parameters take "
        f"{sizes[0]:.1f} MiB, those that train {sizes[1]:.1f} MiB × 5 with gradients, AdamW's two moments and the average, "
        "and the rest is for micro-batches of 4): give trainer.micro_batch_size=2 (or a larger "
    )
    for key in (
        "trainer.accumulate",
        "denoiser.gradient_checkpointing=true",
        "trainer.precision=bf16-true",
        "data.precompute.enabled=true",
        "denoiser.trainable=cross_attn",
    ):
        assert key in told
    monkeypatch.undo()
    smaller = tiny(*options, "trainer.micro_batch_size=1", "denoiser.gradient_checkpointing=true")
    assert train(smaller)["step"] == 2  # in the same directory


def test_what_is_given_already_is_not_advised(tiny):
    given = tiny(
        "trainer.micro_batch_size=1",
        "denoiser.gradient_checkpointing=true",
        "trainer.precision=bf16-true",
        "optim.ema_decay=0",
        "data.crop=start",
        "data.precompute.enabled=true",
        "denoiser.trainable=cross_attn",
    )
    assert CURES["training"](given) == ["a device with more memory"]
    assert CURES["precompute"](given) == ["data.precompute.batch_size=2", "a device with more memory"]


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (CUDA, True),
        (CPU, True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_allocators_raise_is_known_and_all_else_passes(tiny, error, ours):
    assert is_out_of_memory(error) is ours
    with pytest.raises(OutOfMemory if ours else type(error)) as caught, telling_memory(tiny(), "training"):
        raise error
    if ours:
        assert one_sentence(caught.value).startswith("The memory is used up during training (")


def test_precompute_generation_and_evaluation_say_it_too(tiny, tiny_corpus, tmp_path, monkeypatch, capsys):
    options = (f"data.path={tiny_corpus}", f"runs_dir={tmp_path}", "name=job", "trainer.media_items=0", "data.crop=start")
    train(tiny(*options))
    with monkeypatch.context() as patch:
        planted(patch, MeLFusion, "condition", CPU)
        assert main(["precompute", "tiny", *options]) == 2
        told = capsys.readouterr().err
        assert "memory is used up during precompute (" in told and "data.precompute.batch_size=2" in told
    system, config = load_system(tmp_path / "job")
    items = [{}]
    planted(monkeypatch, MeLFusion, "generate", MemoryError())
    monkeypatch.setattr("melfusion.evaluation.clips.clip_file", lambda folder, dataset, i: folder / f"{i}.wav")
    monkeypatch.setattr("melfusion.evaluation.clips.collate", lambda some: make_nothing())
    with pytest.raises(OutOfMemory, match="during evaluation .*parameters take .*: give evaluation.batch_size=16, or a device"):
        make_clips(system, config, items, CONDITIONS["no picture"], tmp_path / "clips")
    with pytest.raises(OutOfMemory, match="during generation .*a smaller n, or a shorter duration_s"):
        generate.run(generate.Options(prompt="rain", ckpt=str(tmp_path / "job"), out=str(tmp_path / "out")), [])


def make_nothing():
    return type("Nothing", (), {"to": lambda self, device: self, "captions": [""], "labels": [{}], "image": None})()


# --- how a step is cut ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "most", "world", "wanted"),
    [(64, 1, 1, 64), (64, 1, 8, 8), (64, 2, 8, 4), (64, 4, 32, 1), (64, 3, 4, 8), (12, 5, 2, 2), (64, 1, 3, 1)],
)
def test_the_micro_batch_size_holds_on_any_number_of_devices(tiny, batch, most, world, wanted):
    config = tiny(f"data.global_batch_size={batch}", f"trainer.micro_batch_size={most}")
    assert accumulation(config, world) == wanted
    if batch % world == 0:
        assert batch % (world * wanted) == 0 and batch // world // wanted <= most


def test_devices_are_counted_as_the_trainer_counts_them(tiny):
    for words, nodes, wanted in (("auto", 1, 1), ("2", 1, 2), ("2", 3, 6), ("0,1", 1, 2)):
        assert world_size(tiny(f"trainer.devices={words}", f"trainer.num_nodes={nodes}").trainer, {}) == wanted
    for wrong in (("trainer.micro_batch_size=0",), ("trainer.micro_batch_size=2", "trainer.accumulate=2")):
        with pytest.raises(ConfigError, match="trainer.micro_batch_size="):
            tiny(*wrong)


@pytest.mark.parametrize("name", ["melfusion", "melbench", "musiccaps", "experiments/_full.yaml"])
def test_full_scale_as_shipped_is_cut_for_a_gpu_of_24_gb(name):
    config = load_config(name)
    micro = config.data.global_batch_size // accumulation(config, 1)
    assert config.data.precompute.enabled and micro <= 2 and config.data.global_batch_size == 64
    assert config.denoiser.gradient_checkpointing and config.trainer.precision == "bf16-true"
    assert [64 // (n * accumulation(config, n)) for n in (2, 8, 64)] == [1, 1, 1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or torch.cuda.is_available(), reason="another C library, or a GPU")
def test_what_is_freed_on_a_cpu_serves_the_next_tensor():
    def faults(work):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def tensors():
        for _ in range(2):
            [torch.ones(6, 2**20) for _ in range(4)]  # 24 MiB each

    keep_freed_memory()
    tensors()
    # 49,088 where they are returned: each page of each tensor. A kernel that reclaims pages meanwhile adds some
    assert min(faults(tensors) for _ in range(3)) < 1000
