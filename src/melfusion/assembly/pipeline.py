"""The model as an object in Python: `melfusion.load(…)` gives one, calling it gives music."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor

from melfusion.assembly.edit_request import EDITING, Editing, samples_of
from melfusion.assembly.edit_sound import EditedSound, edited_sound, in_its_key
from melfusion.assembly.export import export
from melfusion.assembly.load import load_system, stored_in
from melfusion.assembly.music import Music
from melfusion.assembly.provenance import ModelOrigin, hash_of, records
from melfusion.assembly.schema import Config
from melfusion.assembly.sound_fields import with_latents
from melfusion.assembly.story import Story
from melfusion.errors import CheckpointError, ConfigError, MelfusionError
from melfusion.media.pictures import OpenedPicture, to_pixels
from melfusion.models.frozen import digest
from melfusion.models.generation import Piece, PieceScene
from melfusion.models.placement import Offload, Placement
from melfusion.models.system import MeLFusion

SAMPLING = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "negative_prompt")  # that sampling. gives a default of


class Pipeline(ModelHubMixin):
    """A loaded model that generates.

    Attributes:
        placement: where the parts are while it generates; None: where they lie.
    """

    placement: Placement | None = None

    def __init__(self, system: MeLFusion, config: Config, source: ModelOrigin | None = None):
        self.system, self.config, self.source = system, config, source or ModelOrigin()

    @classmethod
    def read(cls, path: str | Path | None = None, overrides: list[str] | None = None) -> Pipeline:
        """What `load_system` reads; the pipeline knows where that was."""
        file = stored_in(path)  # once: a training may save another checkpoint meanwhile
        return cls(*load_system(file, overrides=overrides), ModelOrigin.of(file, path is None, overrides))

    @cached_property
    def model(self) -> dict[str, Any]:
        """What the record of a clip says of the model; its weights are hashed once."""
        learned = digest({n: p.detach() for n, p in self.system.denoiser.named_parameters() if p.requires_grad})
        made = hash_of([learned, self.system.frozen_digests(), self.system.codec.decoder_provenance()])
        ckpt, file, overrides = self.source.path, self.source.file, self.source.overrides
        return {"ckpt": ckpt, "file": file, "digest": made} | ({"overrides": overrides} if overrides else {})

    def to(self, device: str | torch.device, offload: bool = False) -> Pipeline:
        """Generate on a device; returns the same pipeline, as torch's modules do.

        Args:
            offload: each part waits on the CPU until it is needed: less of the device's memory, more time.
        """
        self.placement = Offload(device) if offload else None
        self.system.to("cpu" if offload else device)
        return self

    def __call__(
        self,
        prompt: str | list[str] = "",
        image: Any = None,
        seed: int | list[int] = 0,
        n: int | None = None,
        duration_s: float | None = None,
        progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
        **options: Any,
    ) -> Music:
        """Music for a sentence, a picture, or both; `progress` gets the sampler's steps and may raise between two of them.

        Args:
            prompt: one sentence, or one for each clip.
            image: a file, opened or not, a PIL picture, or (1 or n, 3, H, W) in [-1, 1]; or a list, one for each clip; None: no
                picture.
            seed: of the first clip, the next ones have seed + 1, …; or one for each clip.
            n: how many clips; None: as many as prompts or seeds.
            options: what is edited (assembly/edit_request.py): window_s, overlap_s, audio, extend_s, repaint, strength,
                keep_key, story.
                How it is sampled: num_inference_steps, guidance_scale, image_guidance_scale, negative_prompt; those that are not
                given are the model's own. And what else the model takes of a request, such as lyrics, bpm or timbre.
        """
        editing = {name: options.pop(name) for name in EDITING if name in options}
        asked, seconds = Editing(**editing).checked(image, duration_s)
        sampling, pixels = self.sampling(**options), self.pixels(image)
        prompts, seeds = each_clip(prompt, seed, n)
        edited = None if asked.audio is None else edited_sound(asked, self.config, self.system, self.placement)
        if edited and asked.in_its_key:
            prompts, options = in_its_key(edited, prompts, options, self.system.conditioner.takes)
        conditions = self._conditions(asked, edited, prompts, options)
        length = edited.duration_s if edited else seconds
        decoded = self.system.generate(prompts, pixels, seeds, duration_s=length, progress=progress, **conditions, **sampling)
        music = self.music(decoded, seeds, edited, seconds)
        given = {name: value for name, value in sampling.items() if value != "" or name in options}
        settings = options | editing | given | {"duration_s": duration_s}
        music.made = self._made(prompts, image, seeds, settings, 0 if pixels is None else len(pixels))
        return music

    def _conditions(
        self, asked: Editing, edited: EditedSound | None, prompts: list[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        """What `generate` is given beside prompts, pictures and how it samples."""
        fields = with_latents(self.fields(**options), self.config, self.system, self.placement)
        piece = Piece(asked.window_s, asked.overlap_s, self.scenes(asked.story, prompts), edited.edit if edited else None)
        return {"placement": self.placement, "fields": [fields] * len(prompts), "piece": piece}

    def _made(
        self, prompts: list[str], image: Any, seeds: list[int], settings: dict[str, Any], pictures: int
    ) -> list[dict[str, Any]]:
        """The record of each clip; sounds that were given as samples are in it by their hash."""
        for name in ("audio", *self.system.conditioner.sounds):
            if settings.get(name) is not None and not isinstance(settings[name], str | Path):
                settings = settings | {name: samples_of(settings[name], name)[0]}
        return records(prompts, image, seeds, settings, pictures, self.model)

    def music(self, decoded: Tensor, seeds: list[int], edited: EditedSound | None = None, duration_s: float | None = None) -> Music:
        """What the codec decoded as sound of that duration, or put into the sound that was edited."""
        codec, keep_level = self.system.codec, edited is not None and edited.keeps_level
        audios = self.system.vocode(decoded, self.placement, keep_level).float().cpu()
        if edited is None:
            audios = audios if duration_s is None else audios[..., : round(duration_s * codec.sample_rate_hz)]
            mels = codec.spectrogram(decoded.to(codec.device))
        else:
            audios = edited.finish(audios)
            mels = codec.log_mel(audios.to(codec.device))
        return Music(audios.numpy(), codec.sample_rate_hz, seeds, mels[:, 0].float().cpu().numpy())

    def scenes(self, story: Story | None, prompts: list[str]) -> list[PieceScene]:
        """The scenes of a story with their pictures read; none without a story."""
        return [
            PieceScene(scene.start_s, prompts if scene.prompt is None else [scene.prompt] * len(prompts), self.pixels(scene.image))
            for scene in (story.scenes if story else [])
        ]

    def sampling(self, **options: Any) -> dict[str, Any]:
        """How a call with these options samples: what is not given, or None, is the model's own. ConfigError on unknown ones."""
        takes = self.system.conditioner.takes
        if unknown := [name for name in options if name not in (*SAMPLING, *takes)]:
            raise ConfigError(f"There is no option {unknown[0]!r}; known are {', '.join((*SAMPLING, *EDITING, *takes))}.")
        given = {name: value for name, value in options.items() if name in SAMPLING and value is not None}
        if given.get("num_inference_steps", 0) > (most := self.config.diffusion.num_train_timesteps):
            raise ConfigError(
                f"num_inference_steps={given['num_inference_steps']} must be at most {most}, the timesteps that this model was "
                "trained with."
            )
        return {name: getattr(self.config.sampling, name) for name in SAMPLING} | given

    def fields(self, **options: Any) -> dict[str, Any]:
        """What of the options the model takes of a request beside the prompt."""
        return {n: value for n, value in options.items() if n in self.system.conditioner.takes and value is not None}

    def open(self, path: str | Path) -> Any:
        """A picture file as PIL's, upright, in its own size and colours; ConfigError where it cannot be read."""
        from melfusion.media.file_kinds import open_picture

        return open_picture("image", str(path), self.config.data.max_image_pixels, self.config.data.max_image_work)

    def pixels(self, image: Any) -> Tensor | None:
        """A picture in any of its forms → (1 or n, 3, H, W) on the model's device."""
        if image is None:
            return None
        if self.config.synapse.kind == "none":
            raise ConfigError("This model was trained from text alone (synapse.kind=none): leave the image out.")
        if isinstance(image, list):
            shown = [pixels for one in image if (pixels := self.pixels(one)) is not None]
            if len(shown) < len(image):
                raise ConfigError("image= lists pictures for some of the clips: give one for each, or none.")
            return torch.cat(shown)
        if not isinstance(image, Tensor):
            image = image.image if isinstance(image, OpenedPicture) else image
            image = self.open(image) if isinstance(image, str | Path) else image
            image = torch.from_numpy(to_pixels(image, self.config.data.image_size_px))[None]
        return image.to(self.system.device)

    def _save_pretrained(self, save_directory: Path, **options: Any) -> None:
        export(self.system, self.config, Path(save_directory), **options)

    def save_pretrained(self, save_directory: str | Path, whole: bool = False, licence: str | None = None, **options: Any) -> None:
        """Write the folder that `from_pretrained` reads (assembly/export.py); further options are refused."""
        self._save_pretrained(Path(save_directory), whole=whole, licence=licence, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Pipeline:
        """An exported folder, or the id of one on the hub; CheckpointError where it is neither. Options: of ModelHubMixin."""
        path = pretrained_model_name_or_path
        if Path(path).exists():
            return cls.read(path, options.get("overrides"))
        try:
            return super().from_pretrained(path, **options)
        except MelfusionError:
            raise
        except Exception as error:  # the hub client raises many kinds; all mean that nothing is to be had
            raise CheckpointError(
                f"{path} is no folder here, and could not be had from the hub ({type(error).__name__}): "
                "check the path, or go online once."
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None, **options: Any) -> Pipeline:
        names = ("cache_dir", "force_download", "local_files_only", "token")
        fetch = {name: value for name, value in options.items() if name in names}
        return cls.read(snapshot_download(model_id, revision=revision, **fetch), options.get("overrides"))


def each_clip(prompt: str | list[str], seed: int | list[int], n: int | None) -> tuple[list[str], list[int]]:
    """A prompt and a seed for each clip; ConfigError where they are not as many."""
    count = n or max(len(value) if isinstance(value, list) else 1 for value in (prompt, seed))
    prompts = prompt if isinstance(prompt, list) else [prompt] * count
    seeds = seed if isinstance(seed, list) else [seed + i for i in range(count)]
    if len(prompts) != count or len(seeds) != count:
        raise ConfigError(f"{len(prompts)} prompts and {len(seeds)} seeds do not make {count} clips: give one or as many of each.")
    return prompts, seeds
