"""What published weights were made to be sampled with, by the files beside them. No heavy imports.

diffusers' pipelines are the source of each value: their defaults, and what they read of these files. Each function takes OWN of its
kind and the config.json of network and scheduler, empty where there is none. It returns OWN of these weights; and of the keys that
the files do not decide what is known, as a sentence.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]  # dotted key → value

MadeFor = tuple[Settings, dict[str, str]]

STEPS, GUIDANCE = "sampling.num_inference_steps", "sampling.guidance_scale"

BASE_STEPS = 50  # of ACE-Step: ace-step/ACE-Step-1.5, docs/en/INFERENCE.md, has 32 to 64, and 8 for turbo weights

NO_STEPS = (
    "by their config.json (is_turbo) these are no turbo weights, and nothing beside them names a number of steps: "
    f"{STEPS}={BASE_STEPS} is the default, since the authors recommend 32 to 64; diffusers has the 8 of turbo weights"
)

NO_SCHEDULER = (
    "there is no scheduler/scheduler_config.json, which alone says whether weights are distilled: give the folder of the whole "
    f"pipeline, or, for base weights, sampling.sampler=euler {STEPS}=100"
)

NO_GUIDANCE = (
    "these are base weights, which hold no guidance, and nothing beside them names one: diffusers has 1.0, which is off; their "
    f"authors try {GUIDANCE}=7"
)


def ace_step(own: Settings, network: Settings, scheduler: Settings) -> MadeFor:
    """Turbo weights hold their guidance: pipeline_ace_step.py reads `is_turbo` and `model_version` in `__init__`."""
    if network.get("is_turbo") or network.get("model_version") == "turbo":
        return own | {GUIDANCE: 1.0}, {}
    return (own | {STEPS: BASE_STEPS}, {STEPS: NO_STEPS}) if network else (own, {})


def stable_audio_3(own: Settings, network: Settings, scheduler: Settings) -> MadeFor:
    """The network's config.json is the same for all; pipeline_stable_audio_3.py reads the scheduler's in step 5 of `__call__`."""
    if not scheduler:
        return own, {key: NO_SCHEDULER for key in own if key.startswith("sampling.")}
    if scheduler.get("stochastic_sampling"):
        return own, {}
    return own | {"sampling.sampler": "euler", STEPS: 100}, {GUIDANCE: NO_GUIDANCE}
