"""How a picture reaches the denoiser's cross-attention: one file per family of kinds."""
