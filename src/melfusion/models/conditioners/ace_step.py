"""ACE-Step 1.5's conditioner: caption with tempo, key, metre and duration; lyrics; a timbre."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.ace_step.pipeline_ace_step import DEFAULT_DIT_INSTRUCTION, SFT_GEN_PROMPT
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from melfusion.batch import Prompt
from melfusion.models.conditioner import Conditioner, number, words

log = logging.getLogger(__name__)

END = "<|endoftext|>"


class AceStepConditioner(Conditioner):
    """Context: lyrics, timbre and text, packed, with what is padding at the end. L = lyrics_length + 1 + max_length.

    Args:
        network: a causal language model without its head. The lyrics only get its embeddings.
        encoder: makes one context of all. Its silence stands for no timbre, and for no music before.
        timbre_frames: of that silence.  timbre_s: of the excerpts of a sound that has the timbre.
        clip_duration_s: of a clip whose request says nothing of it.
    """

    takes = ("lyrics", "bpm", "key", "timesignature", "language", "timbre", "duration_s")
    sounds = ("timbre",)
    looks_at_values = True  # it sorts by them
    duration = "duration_s"

    def __init__(
        self,
        network: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoder: AceStepConditionEncoder,
        max_length: int,
        lyrics_length: int,
        timbre_frames: int,
        clip_duration_s: float,
        timbre_s: float = 30.0,
    ):
        super().__init__()
        self.network, self.tokenizer, self.encoder = network, tokenizer, encoder
        self.max_length, self.lyrics_length, self.timbre_frames = max_length, lyrics_length, timbre_frames
        self.clip_duration_s, self.timbre_s = clip_duration_s, timbre_s
        self.num_cut = 0

    @property
    def width(self) -> int:
        return self.encoder.config.hidden_size

    @property
    def length(self) -> int:
        return self.lyrics_length + 1 + self.max_length

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        requests = fields or [{}] * len(captions)
        ids, mask = self.tokenize([self.text(*pair) for pair in zip(captions, requests, strict=True)], self.max_length)
        lyric_ids, lyric_mask = self.tokenize([self.lyrics(request) for request in requests], self.lyrics_length)
        with torch.autocast("cuda", torch.bfloat16) if ids.is_cuda else contextlib.nullcontext():
            text = self.network(input_ids=ids).last_hidden_state  # causal: no word sees the padding after it
        context, packed = self.encoder(
            text_hidden_states=text.float(),
            text_attention_mask=mask,
            lyric_hidden_states=self.network.get_input_embeddings()(lyric_ids).float(),
            lyric_attention_mask=lyric_mask,
            refer_audio_acoustic_hidden_states_packed=self.timbres(requests),
            refer_audio_order_mask=torch.arange(len(captions), device=self.device),
        )
        context = context * packed[..., None]
        prompt = Prompt(context, packed)
        said = [bool(caption) or self.says(request) for caption, request in zip(captions, requests, strict=True)]
        known = torch.tensor(said, device=self.device)[:, None, None]
        return dataclasses.replace(prompt, text_embeds=torch.where(known, context, self.without_text(prompt).text_embeds))

    def says(self, fields: dict[str, Any]) -> bool:
        """Does a request name more than how long the clip is?"""
        named = (fields.get(name) for name in self.takes if name not in (self.duration, *self.sounds))
        return any(value not in (None, "") for value in named) or isinstance(fields.get("timbre"), Tensor)

    def timbres(self, requests: list[dict[str, Any]]) -> Tensor:
        """(B, T, C) latents; silence of the same length where a request has none, as all samples of training."""
        stored: Any = self.encoder.silence_latent  # which may be kept in bfloat16
        given = [r["timbre"].to(stored) if isinstance(r.get("timbre"), Tensor) else None for r in requests]
        silence = self.silence(next((len(one) for one in given if one is not None), self.timbre_frames))[0]
        return torch.stack([silence if one is None else one for one in given])

    def excerpt(self, waveform: Tensor, rate_hz: int) -> Tensor:
        """A third of `timbre_s` each from the beginning, after a third of the sound, and from its end, one behind the other.

        A sound shorter than `timbre_s` is repeated first, as in diffusers, pipelines/ace_step (prepare_reference_audio_latents).
        """
        part = round(self.timbre_s / 3 * rate_hz)
        whole = torch.cat([waveform] * max(1, -(-round(self.timbre_s * rate_hz) // waveform.shape[-1])), -1)
        middle = whole.shape[-1] // 3
        return torch.cat([whole[..., :part], whole[..., middle : middle + part], whole[..., -part:]], -1)

    def without_text(self, prompt: Prompt) -> Prompt:
        """The learned embedding of nothing in every place, as its own pipeline has it."""
        nothing = self.encoder.null_condition_emb.detach()
        return dataclasses.replace(prompt, text_embeds=nothing.expand_as(prompt.text_embeds))

    def frame_context(self, latents: Tensor) -> dict[str, Tensor]:
        """Silence stood there before, and every frame is to be made."""
        before = self.silence(latents.shape[2]).to(latents.dtype).expand(len(latents), -1, -1)
        return {"context": torch.cat([before, torch.ones_like(before)], 2)}

    def silence(self, frames: int) -> Tensor:
        """(1, T, C), repeated where the clip is longer than what was stored."""
        stored: Any = self.encoder.silence_latent
        return stored.repeat(1, -(-frames // stored.shape[1]), 1)[:, :frames]

    def text(self, caption: str, fields: dict[str, Any]) -> str:
        """What the language model reads, in the form that it was trained with."""
        bpm, seconds = number(fields, "bpm", 0), number(fields, "duration_s", self.clip_duration_s)
        facts = {
            "bpm": f"{bpm:g}" if bpm else "N/A",
            "timesignature": words(fields, "timesignature", "N/A"),
            "keyscale": words(fields, "key", "N/A"),
            "duration": f"{int(seconds)} seconds" if seconds > 0 else "30 seconds",
        }
        metas = "".join(f"- {name}: {value}\n" for name, value in facts.items())
        return SFT_GEN_PROMPT.format(DEFAULT_DIT_INSTRUCTION, caption, metas)

    def lyrics(self, fields: dict[str, Any]) -> str:
        """The same of the lyrics; without them the music has no voice."""
        return f"# Languages\n{words(fields, 'language', 'en')}\n\n# Lyric\n{words(fields, 'lyrics')}{END}"

    def tokenize(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Texts → token ids and mask, both (B, length), with the padding behind."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate breaks tokenizers
        cut = sum(len(ids) > length for ids in self.tokenizer(texts, verbose=False)["input_ids"])
        if cut and not self.num_cut:
            log.warning("A prompt or lyrics of more than %d tokens are cut: conditioner.max_length, lyrics_length.", length)
        self.num_cut += cut
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, padding_side="right", return_tensors="pt"
        )
        return tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device).bool()
