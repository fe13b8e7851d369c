"""melfusion: image + text → music.

    shards ─► MusicDataModule ─► MusicBatch ┬ waveform ─► MusicCodec.encode ───────────────────► latents ─► add_noise ─┐
                                            ├ caption  ─► Conditioner ─────► text_embeds, mask ┐                       │
                                            └ image    ─► ImageEncoder ─► visual_features ─────┴► VisualSynapse ─► Denoiser ─► loss
    generate:  noise ─► sampler(denoise, guidance) ─► latents ─► MusicCodec.decode ─► waveform ─► wav

The rooms, from the bottom up; a file imports only from rooms below its own (tests/test_house.py):

    config      YAML files and overrides, checked against a schema       state      what a run leaves on disk
    media       audio, log-mels, pictures, figures                       metrics    distances, intervals and sets of scores
    cluster     SLURM                                                    data       shards, order, sources of data
    models      the networks, the diffusion, the synapse                 listeners  networks that score clips
    assembly    a configuration → built objects; loading a run           training   the loop, its guards and its logs
    evaluation  clips, scores, tables, listening studies                 lab        suites of experiments/, shipped recipes
    torture     faults on purpose                                        app        the page in the browser
    bench       speed beside the released setting                        verbs      one file per verb of the command line
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melfusion.assembly.pipeline import Pipeline

__version__ = "0.1.0"
DEFAULT_CONFIG = "scenes"
PREEMPTED = 75  # exit code EX_TEMPFAIL: the run was asked to leave and has saved its state; the same command goes on


def load(path: str | None = None, overrides: list[str] | None = None) -> "Pipeline":
    """A checkpoint, a run directory, an exported folder or the id of one on the hub → an object that generates.

    Without a path: the shipped model. `overrides`: keys of its configuration, such as ["sampling.guidance_scale=4"].
    """
    from melfusion.assembly.pipeline import Pipeline

    return Pipeline.read(None, overrides) if path is None else Pipeline.from_pretrained(path, overrides=overrides)
