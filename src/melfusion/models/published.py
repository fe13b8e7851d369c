"""Published layouts on disk → networks, strictly; whatever the libraries raise becomes one sentence."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel
from transformers.utils import logging as bars

from melfusion.errors import WeightsError
from melfusion.files import whole_path, write_json, write_whole
from melfusion.media.options import AudioConfig
from melfusion.models.device import only_sizes
from melfusion.models.layout_names import PART, PART_FILE, PIPELINE
from melfusion.models.layouts import misfit, unstored, variant
from melfusion.models.state_dicts import fill, read_state, some, unwrapped

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

# what lies beside a network in the published files that hold it, by the class that is wanted
UNUSED = {
    "T5EncoderModel": ("decoder.", "lm_head."),
    "CLIPTextModel": ("vision_model.", "visual_projection.", "text_projection.", "logit_scale"),
    "CLIPVisionModel": ("text_model.", "visual_projection.", "text_projection.", "logit_scale"),
    "SiglipVisionModel": ("text_model.", "logit_scale", "logit_bias"),
    "AutoModel": ("cls.", "lm_head.", "classifier.", "vocab_", "discriminator_predictions."),  # heads of BERT's family
}

TANGO_UNUSED = ("text_encoder.",)  # frozen FLAN-T5, which text_encoder.weights names


def loaded(cls: Any, folder: Path, wanted: str | None = None, **kwargs: Any) -> Any:
    """from_pretrained on a local folder, never with code from it; whatever the libraries raise becomes one sentence.

    `wanted`: what layout_names.py calls it, where that is not the name of the class.
    """
    if wrong := misfit(folder, wanted or cls.__name__):
        raise WeightsError(wrong)
    if cls.__name__.startswith("Auto"):  # these would otherwise ask at the terminal whether to run it
        kwargs["trust_remote_code"] = False
    try:
        with no_bars():
            return cls.from_pretrained(folder, local_files_only=True, **kwargs)
    except Exception as error:  # they raise OSError, ValueError, KeyError, SafetensorError, JSONDecodeError, …
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        if re.search("connect|internet|huggingface.co|Can't load", first):  # of a folder: nothing was to be fetched
            first = f"its files are {some(sorted(p.name for p in folder.iterdir()))}"
        raise WeightsError(f"{folder} does not hold a loadable {cls.__name__}: {first}") from error


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """transformers draws a bar for each network that it reads, in a log file, too; within this it draws none."""
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def pretrained(cls: Any, folder: Path, wanted: str | None = None) -> Any:
    """A network in float32 with every weight from the folder: what is missing there is an error, not a random number.

    Weights that are there in fp16 or bf16 alone are read too: float32 holds their values exactly. `wanted`: as for `loaded`.
    """
    if only_sizes():
        return described(cls, folder, wanted)
    called = wanted or cls.__name__
    if wrong := misfit(folder, called) or unstored(folder, called):
        raise WeightsError(wrong)
    ours = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False} if issubclass(cls, ModelMixin) else {"dtype": torch.float32}
    network, info = loaded(cls, folder, wanted, output_loading_info=True, variant=variant(folder), **ours)
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(
            f"{folder} lacks {len(missing)} weights of a {cls.__name__}, the first {missing[0]!r}: "
            "copy the folder again or give other weights."
        )
    if unknown := sorted(name for name in info["unexpected_keys"] if not name.startswith(UNUSED.get(cls.__name__, ()))):
        if issubclass(cls, ModelMixin):  # which lies alone in its file, so its config.json is of another network
            raise WeightsError(f"{folder} has weights that its config.json does not describe ({some(unknown)}): copy both again.")
        log.warning("%s holds more than a %s, which is not used: %s.", folder, cls.__name__, some(unknown))
    return network


def described(cls: Any, folder: Path, wanted: str | None = None) -> Any:
    """A network of the sizes in the folder's config.json, without its weights."""
    if wrong := misfit(folder, wanted or cls.__name__):
        raise WeightsError(wrong)
    if issubclass(cls, ModelMixin):
        return cls.from_config(cls.load_config(folder, local_files_only=True))
    config = loaded(getattr(cls, "config_class", None) or AutoConfig, folder)
    return cls.from_config(config) if cls is AutoModel else cls(config)


def stored_settings(cls: Any, folder: Path) -> dict[str, Any]:
    """What a folder's config.json says of a network of diffusers, with the defaults of its class; no weight is read."""
    if wrong := misfit(folder, cls.__name__):
        raise WeightsError(wrong)
    try:
        stored = cls.load_config(folder, local_files_only=True)
    except Exception as error:  # diffusers raises OSError, EnvironmentError, …
        raise WeightsError(f"{folder} holds no readable config.json of a {cls.__name__} ({type(error).__name__}).") from error
    given = inspect.signature(cls.__init__).parameters.items()
    return {name: one.default for name, one in given if one.default is not one.empty} | dict(stored)


def save_network(network: ModelMixin, folder: Path) -> None:
    """diffusers' own layout, without the path on this machine that a network was loaded from."""
    network.save_pretrained(folder)
    file = folder / "config.json"
    tree = json.loads(file.read_text())
    tree.pop("_name_or_path", None)
    write_whole(file, json.dumps(tree, indent=2, sort_keys=True) + "\n")


def check_pipeline(folder: Path) -> None:
    """A folder of parts; WeightsError where it is one of them, or another thing."""
    if wrong := misfit(folder, PIPELINE):
        raise WeightsError(wrong)


def write_part(network: nn.Module, folder: Path, audio: AudioConfig, sizes: dict[str, Any]) -> None:
    """A network of this project → part.json and model.safetensors.

    Not by diffusers' ModelMixin: it only warns of weights that are missing, and knows no audio that a part was made for, so
    that all checks here would stand around it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole_path(folder / "model.safetensors") as part:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, part)
    write_json(folder / PART_FILE, {"audio": audio.stated(), "sizes": sizes})


def read_part(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """part.json → (the audio it was made for, its sizes)."""
    if wrong := misfit(folder, PART):
        raise WeightsError(wrong)
    try:
        stored = json.loads((folder / PART_FILE).read_text())
        return dict(stored["audio"]), dict(stored["sizes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder / PART_FILE} cannot be read ({type(error).__name__}): copy the folder again.") from error


def sized(make: Callable[..., M], folder: Path, *args: Any, **sizes: Any) -> M:
    """A network of the sizes that part.json names, with its weights."""
    try:
        network = make(*args, **sizes)
    except WeightsError:  # of another folder that it needs
        raise
    except Exception as error:  # of another type or name, or too large to be had
        words = " ".join(str(error).split()).split(". ")[0][:200]
        raise WeightsError(f"{folder / PART_FILE} has sizes that no network can have ({words}): copy it again.") from error
    load_part(network, folder)
    return network


def load_part(network: nn.Module, folder: Path) -> None:
    """model.safetensors, whatever its float type, into a float32 network, strictly."""
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    except Exception as error:  # safetensors raises its own and OSError; torch RuntimeError of many lines
        first = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder / 'model.safetensors'} does not fit its {PART_FILE}: {first}") from error


def tango_state(file: Path) -> dict[str, torch.Tensor]:
    """The UNet of Tango's published file, of one that holds the UNet alone, or of either as DataParallel wrote it."""
    state = read_state(file)
    if "conv_in.weight" in state:
        return state
    unet = {name.removeprefix("unet."): tensor for name, tensor in state.items() if name.startswith("unet.")}
    if not unet:
        raise WeightsError(
            f"{file} holds no UNet, which has a 'unet.conv_in.weight' or a 'conv_in.weight', but {some(state)}: "
            "give Tango's published file or the state of a UNet."
        )
    if unknown := [name for name in state if not name.startswith(("unet.", *TANGO_UNUSED))]:
        raise WeightsError(
            f"{file} holds {some(unknown)} beside its UNet, which are no part that this project knows: give a file "
            "of 'unet.' and 'text_encoder.' alone."
        )
    if left := len(state) - len(unet):
        log.warning("%s: left out are %d tensors text_encoder.* (frozen FLAN-T5, which text_encoder.weights names).", file, left)
    return unwrapped(unet)


def load_tango(unet: UNet2DConditionModel, state: dict[str, torch.Tensor], file: Path) -> None:
    fill(unet, state, file, "the UNet that the configuration's `unet` describes")


def load_statistics(vae: nn.Module, file: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """A music VAE's normalisation, as its export wrote it, into its buffers: all of them. Returns the audio it was trained for."""
    try:
        stored = json.loads(file.read_text())
        for name in names:
            value = torch.tensor(stored[name], dtype=torch.float32, device="cpu")
            if value.shape != getattr(vae, name).shape or not value.isfinite().all():
                raise ValueError(f"{name}={stored[name]!r:.60}")
            getattr(vae, name).copy_(value)
        return dict(stored.get("audio", {}))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        words = " ".join(str(error).split())[:200]
        raise WeightsError(f"{file} is not what an export writes ({type(error).__name__}: {words}): copy it again.") from error


def stored_schedule(folder: Path) -> tuple[torch.Tensor, str]:
    """ᾱ (T,) and the prediction type of a pipeline's own scheduler, whatever its class (epsilon where it names none)."""
    try:
        stored = DDPMScheduler.load_config(folder, local_files_only=True)
        kinds = {"num_train_timesteps": int, "beta_start": float, "beta_end": float, "beta_schedule": str}
        if wrong := [name for name, kind in kinds.items() if not isinstance(stored.get(name), kind)]:  # defaults would stand in
            raise ValueError(f"{wrong[0]}={stored.get(wrong[0])!r:.40}")
        scheduler = DDPMScheduler.from_config(stored)
        return scheduler.alphas_cumprod, scheduler.config.prediction_type
    except Exception as error:  # diffusers raises OSError, ValueError, NotImplementedError, …, some of many lines
        words = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder} holds no scheduler's configuration ({type(error).__name__}: {words}).") from error


@torch.no_grad()
def empty_prompt(folder: Path, width: int) -> torch.Tensor:
    """The pipeline's own encoding of ""; zeros for the stand-in, which has no text encoder."""
    if not (folder / "text_encoder").is_dir():
        return torch.zeros(1, 1, width)
    tokenizer = loaded(AutoTokenizer, folder / "tokenizer")
    encoder = pretrained(CLIPTextModel, folder / "text_encoder").eval()
    ids = tokenizer([""], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state
