"""The registry of synapse kinds."""

from __future__ import annotations

from melfusion.models.synapse.base import NoSynapse, VisualSynapse
from melfusion.models.synapse.concat import Concat, Decoupled
from melfusion.models.synapse.context import ContextMix
from melfusion.models.synapse.controlnet import ControlNet
from melfusion.models.synapse.language import LanguageOfAudio
from melfusion.models.synapse.mixing import KVMix, KVMixProj

SYNAPSES: dict[str, type[VisualSynapse]] = {
    "none": NoSynapse,
    "kv_mix": KVMix,
    "kv_mix_proj": KVMixProj,
    "concat": Concat,
    "decoupled": Decoupled,
    "context_mix": ContextMix,
    "controlnet": ControlNet,
    "language_of_audio": LanguageOfAudio,
}
