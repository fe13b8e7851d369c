"""The networks: codec, text and image encoders, denoiser, synapse, diffusion."""
