"""`denoiser.compile=true` compiles every denoiser as one graph, and the paper's with every kind of synapse."""

import building as build
import pytest
import torch
from backbone_twins import CLASSES, forward
from backbone_twins import build as twin

from melfusion.models.synapse.options import OPTIONS

SLOW = pytest.mark.slow  # all but the paper's kind and the transformers: each compilation of a UNet takes seconds
KINDS = [pytest.param(kind, marks=[] if kind == "kv_mix" else SLOW) for kind in sorted(OPTIONS)]


def compiled(config, monkeypatch=None):
    """One pass of the UNet under a compiler that refuses a graph with breaks."""
    torch._dynamo.reset()
    system = build.system(config).eval()
    system.denoiser.compile(backend="eager", fullgraph=True)
    latents = torch.zeros(2, *system.latent_shape())
    seen = system.see(system.encode_captions(["a", "b"], None), torch.zeros(2, 3, 16, 16), [0, 1])
    with torch.no_grad():
        return system.denoise(latents, torch.tensor([3, 500]), seen)


@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_is_one_graph(tiny, kind):
    match = ["synapse.match=pool_2d"] if kind == "controlnet" else []
    assert torch.isfinite(compiled(tiny(f"synapse.kind={kind}", *match))).all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW if name == "audioldm2" else []) for name in CLASSES if name != "unet"]
)
def test_every_other_backbone_is_one_graph(tiny, name):
    torch._dynamo.reset()
    model = twin(tiny, name).eval()
    with torch.no_grad():
        wanted = forward(model, name)
        model.compile(backend="eager", fullgraph=True)
        assert torch.equal(forward(model, name), wanted)


def test_a_planted_break_is_refused(tiny, monkeypatch):
    from melfusion.models.synapse.mixing import KVMix

    mix = KVMix.mix

    def broken(self, layer, key, *args):
        if key.sum().item() > 1e9:
            print("never")
        return mix(self, layer, key, *args)

    monkeypatch.setattr(KVMix, "mix", broken)
    with pytest.raises(Exception, match="(?i)graph|data-dependent|item"):
        compiled(tiny())
