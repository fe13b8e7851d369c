"""melfusion: image + text → music.

    shards ─► MusicDataModule ─► MusicBatch ┬ waveform ─► log_mel ─► MusicVAE.encode ───────────► latents ─► add_noise ─┐
                                            ├ caption  ─► TextEncoder ───► text_embeds, text_mask ┐                     │
                                            └ image    ─► ImageFeatureExtractor ─► visual_features┴► VisualSynapse ─► SynapticUNet ─► loss
    generate:  noise ─► sampler(denoise, guidance) ─► latents ─► MusicVAE.decode ─► log_mel ─► Vocoder ─► waveform ─► wav

Every name above is a file of this package (batch.py, audio.py, music_vae.py with texture.py, text_encoder.py, image_features.py,
synapse.py, unet.py, diffusion.py, sampler.py, vocoder.py); melfusion.py joins them, build.py makes them from a
configuration, and each verb of the command line (train, generate, precompute, …) is a short file of its own.
"""  # noqa: E501

__version__ = "0.1.0"
DEFAULT_CONFIG = "scenes"
PREEMPTED = 75  # exit code, EX_TEMPFAIL: asked to leave, the state is saved, and the same command goes on
