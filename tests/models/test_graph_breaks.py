"""`denoiser.compile=true` compiles the denoiser as one graph, with every kind of synapse."""

import building as build
import pytest
import torch

from melfusion.models.synapse.options import OPTIONS

SLOW = pytest.mark.slow  # all but the paper's kind: each compilation takes seconds
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
