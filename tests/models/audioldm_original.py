"""AudioLDM's VAE and vocoder under their original names: a state dict of random numbers, and what these networks compute of it.

Written down from haoheliu/AudioLDM (audioldm/variational_autoencoder/modules.py, audioldm/hifigan/models.py), without a name of
diffusers or transformers.
"""

import torch
import torch.nn.functional as F

WIDTH, LATENTS, MELS = 32, 8, 64
RATES, KERNELS = (5, 4, 2, 2, 2), (16, 16, 8, 4, 4)
SCALE = 0.37


class Names(dict):
    """A state dict that is filled by naming layers."""

    def conv(self, name, out, into, *kernel):
        fan = into * torch.tensor(kernel).prod().item()
        self[f"{name}.weight"], self[f"{name}.bias"] = torch.randn(out, into, *kernel) * fan**-0.5, torch.randn(out) * 0.1

    def norm(self, name, width):
        self[f"{name}.weight"], self[f"{name}.bias"] = 1 + 0.1 * torch.randn(width), 0.1 * torch.randn(width)

    def block(self, name, into, out):
        self.norm(f"{name}.norm1", into), self.conv(f"{name}.conv1", out, into, 3, 3)
        self.norm(f"{name}.norm2", out), self.conv(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            self.conv(f"{name}.nin_shortcut", out, into, 1, 1)

    def middle(self, name, width):
        self.block(f"{name}.block_1", width, width), self.block(f"{name}.block_2", width, width)
        self.norm(f"{name}.attn_1.norm", width)
        for layer in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.attn_1.{layer}", width, width, 1, 1)


def vae_state():
    s, e, d, wide = Names(), "first_stage_model.encoder", "first_stage_model.decoder", 4 * WIDTH
    s.conv(f"{e}.conv_in", WIDTH, 1, 3, 3), s.conv(f"{d}.conv_in", wide, LATENTS, 3, 3)
    for level, (into, out) in enumerate([(1, 1), (1, 2), (2, 4)]):
        for i in range(2):
            s.block(f"{e}.down.{level}.block.{i}", WIDTH * (out if i else into), WIDTH * out)
        if level < 2:
            s.conv(f"{e}.down.{level}.downsample.conv", WIDTH * out, WIDTH * out, 3, 3)
    for level, (into, out) in {2: (4, 4), 1: (4, 2), 0: (2, 1)}.items():
        for i in range(3):
            s.block(f"{d}.up.{level}.block.{i}", WIDTH * (out if i else into), WIDTH * out)
        if level:
            s.conv(f"{d}.up.{level}.upsample.conv", WIDTH * out, WIDTH * out, 3, 3)
    s.middle(f"{e}.mid", wide), s.middle(f"{d}.mid", wide)
    s.norm(f"{e}.norm_out", wide), s.norm(f"{d}.norm_out", WIDTH)
    s.conv(f"{e}.conv_out", 2 * LATENTS, wide, 3, 3), s.conv(f"{d}.conv_out", 1, WIDTH, 3, 3)
    s.conv("first_stage_model.quant_conv", 2 * LATENTS, 2 * LATENTS, 1, 1)
    s.conv("first_stage_model.post_quant_conv", LATENTS, LATENTS, 1, 1)
    return s


def vocoder_state(width=64):
    s, v = Names(), "first_stage_model.vocoder"
    s.conv(f"{v}.conv_pre", width, MELS, 7)
    for i, kernel in enumerate(KERNELS):
        half = width // 2 ** (i + 1)
        s.conv(f"{v}.ups.{i}", 2 * half, half, kernel)
        s[f"{v}.ups.{i}.bias"] = torch.randn(half) * 0.1  # a transposed convolution: (into, out, kernel)
        for j, size in enumerate((3, 7, 11)):
            for k in range(3):
                s.conv(f"{v}.resblocks.{3 * i + j}.convs1.{k}", half, half, size)
                s.conv(f"{v}.resblocks.{3 * i + j}.convs2.{k}", half, half, size)
    s.conv(f"{v}.conv_post", 1, width // 32, 7)
    return s


def original_state(seed=0):
    """What the file holds beside UNet and text (audioldm_original_unet.py); of what is not needed one tensor each."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = dict(vae_state() | vocoder_state())
    rest = ("model_ema.decay", "logvar", "cond_stage_model.model.text_transform.sequential.0.weight")
    clap = ("cond_stage_model.model.text_branch.embeddings.position_ids", "cond_stage_model.model.audio_branch.bn0.weight")
    clap += ("cond_stage_model.model.audio_projection.0.weight", "cond_stage_model.model.logit_scale_a")
    schedule = ("betas", "alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef2")
    return state | {name: torch.ones(2) for name in (*rest, *clap, *schedule)} | {"scale_factor": torch.tensor(SCALE)}


def conv(s, name, x, **how):
    layer = F.conv2d if x.ndim == 4 else F.conv1d
    return layer(x, s[f"{name}.weight"], s[f"{name}.bias"], **how)


def norm(s, name, x):
    return F.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"], eps=1e-6)


def block(s, name, x):
    y = conv(s, f"{name}.conv1", F.silu(norm(s, f"{name}.norm1", x)), padding=1)
    y = conv(s, f"{name}.conv2", F.silu(norm(s, f"{name}.norm2", y)), padding=1)
    return y + (conv(s, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in s else x)


def middle(s, name, x):
    x, a = block(s, f"{name}.block_1", x), f"{name}.attn_1"
    normed = norm(s, f"{a}.norm", x)
    q, k, v = (conv(s, f"{a}.{layer}", normed).flatten(2) for layer in "qkv")
    seen = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
    x = x + conv(s, f"{a}.proj_out", (v @ seen.transpose(1, 2)).unflatten(2, x.shape[2:]))
    return block(s, f"{name}.block_2", x)


def encode(s, x):
    """log_mel (B, 1, T, F) → moments (B, 2C, T/4, F/4)."""
    e = "first_stage_model.encoder"
    x = conv(s, f"{e}.conv_in", x, padding=1)
    for level in range(3):
        for i in range(2):
            x = block(s, f"{e}.down.{level}.block.{i}", x)
        if level < 2:
            x = conv(s, f"{e}.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
    x = F.silu(norm(s, f"{e}.norm_out", middle(s, f"{e}.mid", x)))
    return conv(s, "first_stage_model.quant_conv", conv(s, f"{e}.conv_out", x, padding=1))


def decode(s, z):
    """z as the VAE has it → log_mel."""
    d = "first_stage_model.decoder"
    x = conv(s, f"{d}.conv_in", conv(s, "first_stage_model.post_quant_conv", z), padding=1)
    x = middle(s, f"{d}.mid", x)
    for level in (2, 1, 0):
        for i in range(3):
            x = block(s, f"{d}.up.{level}.block.{i}", x)
        if level:
            x = conv(s, f"{d}.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0), padding=1)
    return conv(s, f"{d}.conv_out", F.silu(norm(s, f"{d}.norm_out", x)), padding=1)


def vocode(s, mel):
    """(B, T, F) → waveform (B, 160 · T)."""
    v = "first_stage_model.vocoder"
    x = conv(s, f"{v}.conv_pre", mel.transpose(1, 2), padding=3)
    for i, (rate, kernel) in enumerate(zip(RATES, KERNELS, strict=True)):
        up = F.leaky_relu(x, 0.1)
        up = F.conv_transpose1d(up, s[f"{v}.ups.{i}.weight"], s[f"{v}.ups.{i}.bias"], rate, (kernel - rate) // 2)
        x = sum(residual(s, f"{v}.resblocks.{3 * i + j}", up, size) for j, size in enumerate((3, 7, 11))) / 3
    return conv(s, f"{v}.conv_post", F.leaky_relu(x), padding=3).tanh()[:, 0]


def residual(s, name, x, size):
    for k, dilation in enumerate((1, 3, 5)):
        y = conv(s, f"{name}.convs1.{k}", F.leaky_relu(x, 0.1), dilation=dilation, padding=dilation * (size - 1) // 2)
        x = x + conv(s, f"{name}.convs2.{k}", F.leaky_relu(y, 0.1), padding=(size - 1) // 2)
    return x
