"""diffusers' AutoencoderKL over long clips: its convolutions in windows, its middle at once."""

from __future__ import annotations

from diffusers import AutoencoderKL
from torch import Tensor

from melfusion.models.codecs.norms import windowed_with_norms


def reach(vae: AutoencoderKL) -> int:
    """Latent frames to each side that the levels of encoder or decoder see, at most.

    The lowest level sees one frame to each side by each convolution, two in a block and one where the rate changes; the levels
    above it see half as much each.
    """
    return 2 * (2 * (vae.config.layers_per_block + 1) + 1)


def encode(vae: AutoencoderKL, x: Tensor, window: int) -> Tensor:
    """(B, C, T, F) → moments, as `vae.encode(x).latent_dist.parameters`, with windows of so many latent frames.

    The middle is at once, since its attention sees the whole clip. It works at the latents' rate, where a clip is small.
    """
    encoder, down = vae.encoder, 2 ** (len(vae.config.block_out_channels) - 1)

    def levels(part: Tensor) -> Tensor:
        part = encoder.conv_in(part)
        for block in encoder.down_blocks:
            part = block(part)
        return part

    low = windowed_with_norms([encoder.down_blocks], levels, x, window, reach(vae), (down, 1))
    moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(low))))
    return moments if vae.quant_conv is None else vae.quant_conv(moments)


def decode(vae: AutoencoderKL, z: Tensor, window: int) -> Tensor:
    """(B, C, T/r, F/r) → (B, C, T, F), as `vae.decode(z).sample`; see `encode`."""
    decoder, up = vae.decoder, 2 ** (len(vae.config.block_out_channels) - 1)

    def levels(part: Tensor) -> Tensor:
        for block in decoder.up_blocks:
            part = block(part)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(part)))

    low = decoder.mid_block(decoder.conv_in(z if vae.post_quant_conv is None else vae.post_quant_conv(z)))
    return windowed_with_norms([decoder.up_blocks, decoder.conv_norm_out], levels, low, window, reach(vae), (1, up))
