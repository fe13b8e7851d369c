"""Published layouts on disk → networks, strictly; whatever the libraries raise becomes one sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel

from melfusion.json_text import as_json
from melfusion.schema import AudioConfig, DiffusionConfig
from melfusion.weights_source import WeightsError


def loaded(cls: Any, folder: Path, **kwargs: Any) -> Any:
    """from_pretrained on a local folder, never with code from it; whatever the libraries raise becomes one sentence."""
    if cls.__name__.startswith("Auto"):  # these would otherwise ask at the terminal whether to run it
        kwargs["trust_remote_code"] = False
    try:
        return cls.from_pretrained(folder, local_files_only=True, **kwargs)
    except Exception as error:  # they raise OSError, ValueError, KeyError, SafetensorError, JSONDecodeError, …
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise WeightsError(f"{folder} does not hold a loadable {cls.__name__}: {first}") from error


def pretrained(cls: Any, folder: Path) -> nn.Module:
    """A network in float32 with every weight from the folder: what is missing there is an error, not a random number."""
    ours = (
        {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        if issubclass(cls, ModelMixin)
        else {"dtype": torch.float32}
    )
    network, info = loaded(cls, folder, output_loading_info=True, **ours)
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{folder} lacks {len(missing)} weights of a {cls.__name__}, the first {missing[0]!r}: "
                           "copy the folder again or give other weights.")  # fmt: skip
    return network


PART_FILE = "part.json"  # beside model.safetensors: sizes of a part that no library has a layout for


def write_part(network: nn.Module, folder: Path, audio: AudioConfig, sizes: dict[str, Any]) -> None:
    """A network of this project → part.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PART_FILE).write_text(as_json({"audio": dataclasses.asdict(audio), "sizes": sizes}))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")


def read_part(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """part.json → (the audio it was made for, its sizes)."""
    try:
        stored = json.loads((folder / PART_FILE).read_text())
        return dict(stored["audio"]), dict(stored["sizes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder / PART_FILE} cannot be read ({type(error).__name__}): copy the folder again.") from error


def sized(make: Callable[..., nn.Module], folder: Path, *args: Any, **sizes: Any) -> nn.Module:
    """A network of the sizes that part.json names, with its weights."""
    try:
        network = make(*args, **sizes)
    except WeightsError:  # of another folder that it needs
        raise
    except Exception as error:  # of another type or name, or too large to be had
        words = " ".join(str(error).split()).split(". ")[0][:200]
        raise WeightsError(f"{folder / PART_FILE} has sizes that no network can have ({words}): copy it again.") from error
    return load_part(network, folder)


def load_part(network: nn.Module, folder: Path) -> nn.Module:
    """model.safetensors, whatever its float type, into a float32 network, strictly."""
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    except Exception as error:  # safetensors raises its own and OSError; torch RuntimeError of many lines
        first = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder / 'model.safetensors'} does not fit its {PART_FILE}: {first}") from error
    return network


def tango_state(file: Path) -> dict[str, torch.Tensor]:
    """The `unet.` part of Tango's published file."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {k.removeprefix("unet."): v for k, v in state.items() if k.startswith("unet.")}
    except Exception as error:  # torch raises UnpicklingError, EOFError, RuntimeError, …, some of many lines
        raise WeightsError(
            f"{file} is not a file of weights alone ({type(error).__name__}): fetch it again."
        ) from error


def load_tango(unet: UNet2DConditionModel, state: dict[str, torch.Tensor], file: Path) -> None:
    try:
        unet.load_state_dict(state)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        raise WeightsError(f"{file} is not the UNet that the configuration's `unet` describes: {words}") from error


def stored_schedule(file: Path) -> tuple[DiffusionConfig, str]:
    """A pipeline's own noise schedule and prediction type (epsilon where it names none, as diffusers reads it)."""
    try:
        stored = json.loads(file.read_text())
        kinds = {"num_train_timesteps": int, "beta_start": float, "beta_end": float, "beta_schedule": str}
        if wrong := [name for name, kind in kinds.items() if not isinstance(stored[name], kind)]:
            raise ValueError(f"{wrong[0]}={stored[wrong[0]]!r:.40}")
        return DiffusionConfig(**{n: stored[n] for n in kinds}), stored.get("prediction_type", "epsilon")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        words = " ".join(str(error).split())[:200]
        raise WeightsError(f"{file} is not a scheduler's configuration ({type(error).__name__}: {words}).") from error


@torch.no_grad()
def empty_prompt(folder: Path, width: int) -> torch.Tensor:
    """The pipeline's own encoding of ""; zeros for the stand-in, which has no text encoder."""
    if not (folder / "text_encoder").is_dir():
        return torch.zeros(1, 1, width)
    tokenizer = loaded(AutoTokenizer, folder / "tokenizer")
    encoder = pretrained(CLIPTextModel, folder / "text_encoder").eval()
    ids = tokenizer([""], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state
