"""All metrics of sets on one process or several: the clips they are fed, and what each process computes."""

import datetime
import os

import numpy as np
import torch
import torch.distributed as dist

from melfusion.metrics import distances, imsm
from melfusion.metrics.distances import TooFewSamples
from melfusion.metrics.sets import AttributeAccuracy, CLAPScore, ImageMusicSimilarity, KernelDistance, KLDivergence, SetDistance

N, D, CLASSES = 90, 4, 6


def metrics():
    return {
        "fad": SetDistance(distances.frechet_distance),
        "fad_inf": SetDistance(distances.frechet_infinity),
        "kad": KernelDistance(),
        "kl": KLDivergence(),
        "clap": CLAPScore(),
        "imsm": ImageMusicSimilarity(),
        "imsm_released": ImageMusicSimilarity(imsm.imsm_released),
        "accuracy": AttributeAccuracy(),
    }


def clips(name):
    """What `update` takes for N clips; of sets, (embeddings, is real) in turn."""
    rng = np.random.default_rng(7)
    made = [torch.from_numpy(rng.standard_normal((N, D)).astype(np.float32)) for _ in range(4)]
    made[3] += 0.7
    if name in ("kl", "accuracy"):
        logits = [torch.from_numpy(2 * rng.standard_normal((N, CLASSES)).astype(np.float32)) for _ in range(2)]
        wanted = torch.from_numpy(rng.integers(0, CLASSES, N))
        wanted[::7] = -100
        return tuple(logits) if name == "kl" else (logits[0], wanted)
    if name == "clap":
        return tuple(made[:2])
    return (made[0], made[3]) if name in ("fad", "fad_inf", "kad") else (made[0], made[1] + made[0], made[2], made[2] + made[3])


def feed(name, metric, batches):
    """`batches`: lists of clip numbers."""
    sides = clips(name)
    for batch in batches:
        if isinstance(metric, SetDistance):
            for side, real in zip(sides, (True, False), strict=True):
                metric.update(side[batch], real=real)
        else:
            metric.update(*(side[batch] for side in sides))


def batches(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


# of each rank: its batches
SHARES = {
    "uneven": [batches(list(range(0, N, 3)), 7), batches([i for i in range(N) if i % 3], 11)],
    "one rank idle": [[], batches(list(range(N)), 16)],
    "the other idle": [batches(list(range(N)), 90), []],
    "no clips": [[], []],
}


def computed(share):
    """share → metric → number, or the sentence why not."""
    found = {}
    for name, metric in metrics().items():
        feed(name, metric, share)
        found[f"{name} result"] = metric.result()
        try:
            found[name] = metric.compute()
        except TooFewSamples as error:
            found[name] = str(error)
    return found


def on_rank(rank, world, folder):
    """One process of `world`; writes what it computed."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    found = {name: computed(shares[rank]) for name, shares in SHARES.items()}
    dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")
