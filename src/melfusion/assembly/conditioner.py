"""The conditioners: the request → what the denoiser attends to."""

from __future__ import annotations

from collections.abc import Callable

from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.errors import WeightsError
from melfusion.models.conditioner import Conditioner
from melfusion.models.published import loaded, pretrained
from melfusion.models.published_sizes import published
from melfusion.models.text_encoder import TextEncoder
from melfusion.models.twins import byte_tokenizer, random_text_network


def text_encoder(config: Config) -> TextEncoder:
    """T5, CLIP or BERT-like encoder from a transformers folder, or a random twin."""
    c, folder = config.text_encoder, weights_folder(config, "text_encoder")
    if folder is None:
        network = random_text_network(c) if c.weights is None else published(c.weights, "text_encoder")
        return TextEncoder(network, byte_tokenizer(), c.max_length, c.max_words)
    kind = loaded(AutoConfig, folder).model_type
    cls = {"t5": T5EncoderModel, "clip": CLIPTextModel, "clip_text_model": CLIPTextModel}.get(kind, AutoModel)
    tokenizer = loaded(AutoTokenizer, folder)
    if len(set(tokenizer(["a b c d e f"])["input_ids"][0])) < 4:  # transformers makes up an empty one where there is none
        raise WeightsError(f"text_encoder.weights: {folder} holds no tokenizer that knows words; add its tokenizer files.")
    network = pretrained(cls, folder)
    if c.max_length > (longest := getattr(network.config, "max_position_embeddings", c.max_length)):
        raise WeightsError(f"text_encoder.max_length={c.max_length} is more than the {longest} positions of {folder}.")
    return TextEncoder(network, tokenizer, c.max_length, c.max_words)


BUILD: dict[str, Callable[[Config], Conditioner]] = {"text": text_encoder}
