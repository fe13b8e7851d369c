"""AudioLDM's UNet, its average and CLAP's text half under their original names, and what these networks compute.

Written down from haoheliu/AudioLDM (audioldm/latent_diffusion/openaimodel.py, attention.py and ema.py,
audioldm/clap/open_clip/model.py) and RoBERTa (Liu et al. 2019, arXiv 1907.11692), without a name of diffusers or transformers.
"""

import math

import torch
import torch.nn.functional as F
from audioldm_original import Names, conv

TOP, LATENTS, HEAD, FILM = 32, 8, 32, 512
WIDTHS = [TOP * by for by in (1, 2, 3, 5)]
UNET, TEXT = "model.diffusion_model", "cond_stage_model.model.text_"
WORDS, WIDTH, POSITIONS = 40, 64, 24  # of the text half


def linear(s, name, out, into, bias=True):
    s[f"{name}.weight"] = torch.randn(out, into) * into**-0.5
    if bias:
        s[f"{name}.bias"] = 0.1 * torch.randn(out)


def block_state(s, name, into, out):
    s.norm(f"{name}.in_layers.0", into), s.conv(f"{name}.in_layers.2", out, into, 3, 3)
    linear(s, f"{name}.emb_layers.1", out, 8 * TOP)
    s.norm(f"{name}.out_layers.0", out), s.conv(f"{name}.out_layers.3", out, out, 3, 3)
    if into != out:
        s.conv(f"{name}.skip_connection", out, into, 1, 1)


def transformer_state(s, name, width):
    s.norm(f"{name}.norm", width), s.conv(f"{name}.proj_in", width, width, 1, 1), s.conv(f"{name}.proj_out", width, width, 1, 1)
    t = f"{name}.transformer_blocks.0"
    for i in (1, 2, 3):
        s.norm(f"{t}.norm{i}", width)
    for attention in ("attn1", "attn2"):
        for layer in "qkv":
            linear(s, f"{t}.{attention}.to_{layer}", width, width, bias=False)
        linear(s, f"{t}.{attention}.to_out.0", width, width)
    linear(s, f"{t}.ff.net.0.proj", 8 * width, width), linear(s, f"{t}.ff.net.2", width, 4 * width)


def unet_state():
    s, u = Names(), UNET
    linear(s, f"{u}.time_embed.0", 4 * TOP, TOP), linear(s, f"{u}.time_embed.2", 4 * TOP, 4 * TOP)
    linear(s, f"{u}.film_emb", 4 * TOP, FILM), s.conv(f"{u}.input_blocks.0.0", TOP, LATENTS, 3, 3)
    skips, now, number = [TOP], TOP, 1
    for level, width in enumerate(WIDTHS):
        for _ in range(2):
            block_state(s, f"{u}.input_blocks.{number}.0", now, width)
            if level:
                transformer_state(s, f"{u}.input_blocks.{number}.1", width)
            now, number = width, number + 1
            skips.append(now)
        if level < 3:
            s.conv(f"{u}.input_blocks.{number}.0.op", now, now, 3, 3)
            number += 1
            skips.append(now)
    block_state(s, f"{u}.middle_block.0", now, now), block_state(s, f"{u}.middle_block.2", now, now)
    transformer_state(s, f"{u}.middle_block.1", now)
    for number in range(12):
        level = 3 - number // 3
        block_state(s, f"{u}.output_blocks.{number}.0", now + skips.pop(), now := WIDTHS[level])
        if level:
            transformer_state(s, f"{u}.output_blocks.{number}.1", now)
        if level and number % 3 == 2:
            s.conv(f"{u}.output_blocks.{number}.2.conv", now, now, 3, 3)
    s.norm(f"{u}.out.0", TOP), s.conv(f"{u}.out.2", LATENTS, TOP, 3, 3)
    return s


def average_of(unet):
    """LitEma: no dots, and two counts."""
    mean = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": t + 0.01 for name, t in unet.items()}
    return mean | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}


def text_state():
    s, b = Names(), f"{TEXT}branch"
    for name, rows in (("word", WORDS), ("position", POSITIONS), ("token_type", 1)):
        s[f"{b}.embeddings.{name}_embeddings.weight"] = torch.randn(rows, WIDTH)
    s.norm(f"{b}.embeddings.LayerNorm", WIDTH)
    for i in range(2):
        layer = f"{b}.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            linear(s, f"{layer}.attention.self.{name}", WIDTH, WIDTH)
        linear(s, f"{layer}.attention.output.dense", WIDTH, WIDTH), s.norm(f"{layer}.attention.output.LayerNorm", WIDTH)
        linear(s, f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH), linear(s, f"{layer}.output.dense", WIDTH, 2 * WIDTH)
        s.norm(f"{layer}.output.LayerNorm", WIDTH)
    linear(s, f"{b}.pooler.dense", WIDTH, WIDTH)
    linear(s, f"{TEXT}projection.0", FILM, WIDTH), linear(s, f"{TEXT}projection.2", FILM, FILM)
    return s


def apply(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def normed(s, name, x, eps=1e-5):
    return F.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"], eps)


def layer_normed(s, name, x):
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"])


def block(s, name, x, emb):
    y = conv(s, f"{name}.in_layers.2", F.silu(normed(s, f"{name}.in_layers.0", x)), padding=1)
    y = y + apply(s, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    y = conv(s, f"{name}.out_layers.3", F.silu(normed(s, f"{name}.out_layers.0", y)), padding=1)
    return y + (conv(s, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in s else x)


def attention(s, name, x, heads):
    q, k, v = (apply(s, f"{name}.to_{layer}", x).unflatten(2, (heads, -1)).transpose(1, 2) for layer in "qkv")
    seen = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1) @ v
    return apply(s, f"{name}.to_out.0", seen.transpose(1, 2).flatten(2))


def transformer(s, name, x):
    t, heads = f"{name}.transformer_blocks.0", x.shape[1] // HEAD
    y = conv(s, f"{name}.proj_in", normed(s, f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
    for i in (1, 2):
        y = y + attention(s, f"{t}.attn{i}", layer_normed(s, f"{t}.norm{i}", y), heads)
    wide, gate = apply(s, f"{t}.ff.net.0.proj", layer_normed(s, f"{t}.norm3", y)).chunk(2, -1)
    y = y + apply(s, f"{t}.ff.net.2", wide * F.gelu(gate))
    return x + conv(s, f"{name}.proj_out", y.transpose(1, 2).unflatten(2, x.shape[2:]))


def unet(s, x, times, text):
    """x (B, C, T, F), times (B,), text (B, 512) → (B, C, T, F)."""
    u, half = UNET, TOP // 2
    angles = times[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = apply(s, f"{u}.time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    emb = torch.cat([apply(s, f"{u}.time_embed.2", F.silu(emb)), apply(s, f"{u}.film_emb", text)], 1)
    x = conv(s, f"{u}.input_blocks.0.0", x, padding=1)
    skips = [x]
    for number in range(1, 12):
        name = f"{u}.input_blocks.{number}"
        halves = f"{name}.0.op.weight" in s
        x = conv(s, f"{name}.0.op", x, padding=1, stride=2) if halves else block(s, f"{name}.0", x, emb)
        if f"{name}.1.norm.weight" in s:
            x = transformer(s, f"{name}.1", x)
        skips.append(x)
    x = transformer(s, f"{u}.middle_block.1", block(s, f"{u}.middle_block.0", x, emb))
    x = block(s, f"{u}.middle_block.2", x, emb)
    for number in range(12):
        name = f"{u}.output_blocks.{number}"
        x = block(s, f"{name}.0", torch.cat([x, skips.pop()], 1), emb)
        if f"{name}.1.norm.weight" in s:
            x = transformer(s, f"{name}.1", x)
        if f"{name}.2.conv.weight" in s:
            x = conv(s, f"{name}.2.conv", F.interpolate(x, scale_factor=2.0), padding=1)
    return conv(s, f"{u}.out.2", F.silu(normed(s, f"{u}.out.0", x)), padding=1)


def text(s, ids):
    """ids (L,) of one caption without padding, which is word 1 → (512,) of length 1."""
    b, e = f"{TEXT}branch", f"{TEXT}branch.embeddings"
    places = torch.arange(len(ids)) + 2  # 1 is that of padding
    x = s[f"{e}.word_embeddings.weight"][ids] + s[f"{e}.position_embeddings.weight"][places]
    x = layer_normed(s, f"{e}.LayerNorm", x + s[f"{e}.token_type_embeddings.weight"][0])
    for i in range(2):
        layer = f"{b}.encoder.layer.{i}"
        q, k, v = (apply(s, f"{layer}.attention.self.{name}", x) for name in ("query", "key", "value"))
        seen = apply(s, f"{layer}.attention.output.dense", (q @ k.T / WIDTH**0.5).softmax(-1) @ v)
        x = layer_normed(s, f"{layer}.attention.output.LayerNorm", x + seen)
        wide = F.gelu(apply(s, f"{layer}.intermediate.dense", x))
        x = layer_normed(s, f"{layer}.output.LayerNorm", x + apply(s, f"{layer}.output.dense", wide))
    pooled = apply(s, f"{b}.pooler.dense", x[0]).tanh()
    return F.normalize(apply(s, f"{TEXT}projection.2", F.relu(apply(s, f"{TEXT}projection.0", pooled))), dim=0)
