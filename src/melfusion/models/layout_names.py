"""What published layouts are called and by which marks they are known. Tables alone; layouts.py reads them."""

from __future__ import annotations

import re

PART_FILE = "part.json"  # beside model.safetensors: sizes of a part that no library has a layout for

TANGO_FILE = "pytorch_model_main.bin"

AUDIOLDM_FILE = "a single-file AudioLDM checkpoint"

FILM_UNET = "AudioLDM's UNet"  # diffusers calls it a UNet2DConditionModel, too

PIPELINE, PART, VISION = "pipeline", "part", "vision"

WORDS = {
    "AutoConfig": "a text encoder in transformers' layout",
    VISION: "a vision transformer in transformers' layout",
    PIPELINE: "the folder of a whole pipeline (unet, vae, scheduler and so on)",
    FILM_UNET: f"{FILM_UNET} (a UNet2DConditionModel with class_embed_type=simple_projection)",
    PART: f"a part that melfusion trained ({PART_FILE} and model.safetensors)",
}

OF_PART = {  # what a part's `weights:` name, or an embedder's
    "music_vae": "AutoencoderKL",
    "vocoder": "SpeechT5HifiGan",
    "text_encoder": "AutoConfig",
    "image": PIPELINE,
    "denoiser": "UNet2DConditionModel",
    "judge": PART,
    "towers": PART,
    "clip": "CLIPModel",
    "clap": "ClapModel",
}

CLIP = {"clip", "CLIPModel"}

FITS = {  # class → what a config.json may call a network that holds its weights; classes that are not here are not checked
    "AutoencoderKL": {"AutoencoderKL"},
    "UNet2DConditionModel": {"UNet2DConditionModel"},
    FILM_UNET: {FILM_UNET},
    "AutoencoderOobleck": {"AutoencoderOobleck"},
    "AutoencoderSAME": {"AutoencoderSAME"},
    "SpeechT5HifiGan": {"SpeechT5HifiGan", "speecht5_hifigan", "hifigan"},
    "CLIPTextModel": CLIP | {"CLIPTextModel", "clip_text_model"},
    "CLIPVisionModel": CLIP | {"CLIPVisionModel", "clip_vision_model"},
    "CLIPModel": CLIP,
    "ClapModel": {"clap", "ClapModel"},
}

NO_TEXT_ENCODER = {"diffusers", "clap", "clip_vision_model", "StableDiffusionSafetyChecker"} | FITS["SpeechT5HifiGan"]

NO_VISION = {"diffusers"} | FITS["SpeechT5HifiGan"]

# keys of a UNet's config.json: where one is set, it wants another input beside text, and no class fits but, perhaps, FILM_UNET
UNUSUAL = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")

ELSE = "configs/melfusion.yaml names published weights of each part"

ELSE_OF = {
    FILM_UNET: "give that of cvssp/audioldm-s-full-v2 or its authors' single file, or choose another denoiser.kind",
    "AutoencoderOobleck": "give the VAE of Stable Audio Open or ACE-Step, or choose another codec.kind",
    "AutoencoderSAME": "give the VAE of Stable Audio 3, or choose another codec.kind",
    PART: "give shipped or run:NAME",
    VISION: "give CLIP, SigLIP 2 or DINOv3 as its authors publish it",
    "CLIPModel": "give hub:openai/clip-vit-large-patch14@COMMIT or a folder like it",
    "ClapModel": "give hub:laion/larger_clap_music_and_speech@COMMIT or a folder like it",
}

AUDIOLDM = (
    "give the file itself as music_vae.weights and vocoder.weights, and with denoiser.kind=audioldm conditioner.kind=audioldm as "
    "denoiser.weights and conditioner.weights; hub:cvssp/audioldm-s-full-v2 holds its parts as folders, by configs/audioldm.yaml"
)

FILM = (  # what is said of its UNet
    "AudioLDM's UNet gets the text as one vector (FiLM), for which there is a kind of its own: give denoiser.kind=audioldm "
    "conditioner.kind=audioldm, as configs/audioldm.yaml does"
)

IN_ONE_FILE = ("music_vae", "vocoder")  # parts that are read out of that file, and those of kind audioldm

CONVERT = "let diffusers write one by StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"

RUN = "write run:NAME for what a run of this project has exported"

# bytes, one of which stands in a file's name or among the names of its tensors; what it is; what to do
FILES = (
    ((b"cond_stage_models.", b"audioldm2"), "a single-file AudioLDM 2 checkpoint", ELSE),
    (
        (
            b"first_stage_model.vocoder.",
            b"cond_stage_model.model.text_branch.",
            b"cond_stage_model.model.audio_branch.",
            b"audioldm",
        ),
        AUDIOLDM_FILE,
        AUDIOLDM,
    ),
    (
        (b"cond_stage_model.transformer.", b"cond_stage_model.model.transformer.", b"conditioner.embedders."),
        "a single-file Stable Diffusion checkpoint",
        CONVERT,
    ),
    ((b"model.diffusion_model.", b"first_stage_model."), "a single-file checkpoint of a latent diffusion model", CONVERT),
    ((b"optimizer_states",), "a checkpoint of a training run", RUN),
    (
        (TANGO_FILE.encode(), b"unet.conv_in.weight"),
        "Tango's file",
        f"give its folder as denoiser.weights, where it must be named {TANGO_FILE}",
    ),
)

# a file that marks a folder; what the folder is; what to do
FOLDERS = (
    ("system.json", "a whole model that melfusion exported", "give it as CKPT= of a command, not as weights of a part"),
    (PART_FILE, "a part that melfusion trained", ELSE),
    (TANGO_FILE, "Tango's published folder", "give it as denoiser.weights"),
    (
        "model_config.json",
        "weights in Stability AI's own layout",
        "write them in diffusers' by its scripts/convert_stable_audio_3_to_diffusers.py, and give the folder that it makes",
    ),
    ("checkpoints", "the directory of a run", RUN),
)

STORED = re.compile(
    r"(?:model|pytorch_model|diffusion_pytorch_model)"  # weights, or the index of weights in several files
    r"(?:\.(fp16|bf16))?\.(safetensors|bin)(\.index(?:\.(fp16|bf16))?\.json)?"
)

SMALL = (".json", ".txt", ".model")  # configurations and tokenizers

HEADER_BYTES = 64 << 20  # at most, whatever a file says
