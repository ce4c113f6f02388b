"""The official Show-o layout: what its config.json says, and what it means as ours.

Source: Show-o (arXiv 2408.12528) and HermesFlow (arXiv 2502.12148), released code. Our module bears the
official parameter names, so no tensor is renamed. The official config.json holds the vocabulary and the image
size only; the sizes of the transformer come from the language model that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import CheckpointError
from engine.models.showo_config import ShowoConfig
from engine.records import Record
from engine.tokenizers.text import END_OF_TEXT

MODEL_CLASS = "Showo"
LLM = "microsoft/phi-1_5"
NEW_TOKENS = (
    "[PAD]",
    "<|soi|>",
    "<|eoi|>",
    "<|sov|>",
    "<|eov|>",
    "<|t2i|>",
    "<|mmu|>",
    "<|t2v|>",
    "<|v2v|>",
    "<|lvg|>",
)
"""What the official prompting adds to Phi's tokenizer, in its order, after the text vocabulary's last id."""


class PhiSizes(Record, kw_only=True):
    """The sizes of Phi-1.5, under transformers' names."""

    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    rope_theta: float = 10000.0


class OfficialConfig(Record, kw_only=True):
    """What a release's config.json says about the model; its other fields tell how it was trained."""

    vocab_size: int
    llm_vocab_size: int
    w_clip_vit: bool = False
    llm_model_path: str = LLM
    codebook_size: int = 8192
    num_vq_tokens: int = 256
    num_new_special_tokens: int = len(NEW_TOKENS)
    mask_token_id: int | None = None


SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""LLaVA's system prompt, which stands before the features of a CLIP variant."""


class Wording(Record, kw_only=True):
    """What the official scripts keep in their yaml files and code, and our checkpoints in config.json."""

    max_text_len: int
    caption_prompt: str
    vqa_prompt: str
    vqa_choices_prompt: str = ""
    system_ids: tuple[int, ...] = ()
    caption_tokens: int = 100
    answer_tokens: int = 100


def official_wording(system_ids: Sequence[int] = ()) -> Wording:
    """The prompts of the official scripts for the variants without CLIP (`inference_mmu_vqa.py`).

    With `system_ids`, those of SYSTEM_PROMPT, the conversation template under which the CLIP variants were
    tuned.
    """
    user = "USER: " if system_ids else "USER: \n"
    return Wording(
        max_text_len=128,
        caption_prompt=user + "Give a caption for this image. ASSISTANT:",
        vqa_prompt=user + "{question} ASSISTANT:",
        vqa_choices_prompt=user + "Question:{question} Choice:{choices} ASSISTANT:",
        system_ids=tuple(system_ids),
    )


def parse_config(raw: dict[str, Any], where: str) -> OfficialConfig:
    """The official configuration, checked.

    Raises:
        CheckpointError: another family, or numbers that contradict each other.
    """
    found = raw.get("_class_name") or raw.get("model_type") or "no class"
    if found != MODEL_CLASS:
        raise CheckpointError(
            f"{where}: names {found}, not {MODEL_CLASS}; give the folder of a Show-o or HermesFlow release"
        )
    try:
        config = msgspec.convert(raw, OfficialConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{where}: not the config.json of a Show-o release: {error}") from error
    wanted = config.llm_vocab_size + len(NEW_TOKENS) + config.codebook_size + 1
    problems = []
    if config.num_new_special_tokens != len(NEW_TOKENS):
        problems.append(f"num_new_special_tokens is {config.num_new_special_tokens}, not {len(NEW_TOKENS)}")
    if config.vocab_size != wanted:
        problems.append(
            f"vocab_size is {config.vocab_size}, but {config.llm_vocab_size} text ids + {len(NEW_TOKENS)}"
            f" specials + {config.codebook_size} codes + 1 mask are {wanted}"
        )
    if config.mask_token_id not in (None, wanted - 1):
        problems.append(f"mask_token_id is {config.mask_token_id}, not the last id {wanted - 1}")
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}; download the release's own file")
    return config


def parse_phi(raw: dict[str, Any], where: str) -> PhiSizes:
    """Phi's sizes from its own config.json, in the spelling of transformers 4 or 5.

    Raises:
        CheckpointError: not Phi, or a Phi that Show-o cannot be.
    """
    if raw.get("model_type") != "phi":
        raise CheckpointError(
            f"{where}: model_type is {raw.get('model_type')!r}, Show-o's text side is 'phi'"
        )
    rotary = raw.get("rope_parameters") or {}
    try:
        sizes = msgspec.convert({**rotary, **raw}, PhiSizes)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{where}: not a usable Phi config.json: {error}") from error
    problems = []
    if raw.get("num_key_value_heads") not in (None, sizes.num_attention_heads):
        problems.append("key and value heads are shared between queries")
    if raw.get("hidden_act", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        problems.append(f"hidden_act is {raw['hidden_act']!r}")
    if raw.get("tie_word_embeddings"):
        problems.append("the head is tied to the embedding")
    if raw.get("rope_scaling") or rotary.get("rope_type", "default") != "default":
        problems.append("the rotary positions are scaled")
    if sizes.hidden_size % sizes.num_attention_heads:
        problems.append("hidden_size is no multiple of num_attention_heads")
    if problems:
        raise CheckpointError(f"{where}: Show-o cannot be built from this Phi: {'; '.join(problems)}")
    return sizes


def to_ours(
    official: OfficialConfig,
    phi: PhiSizes,
    bos: int,
    wording: Wording,
    clip: tuple[int, int] | None = None,
) -> ShowoConfig:
    """Our configuration of a release; `clip` is the number of features of an image and their width."""
    seen: dict[str, Any] = {}
    if clip:
        seen = {"w_clip_vit": True, "clip_tokens": clip[0], "clip_size": clip[1]}
    return ShowoConfig(
        **msgspec.structs.asdict(phi),
        **msgspec.structs.asdict(wording),
        text_vocab_size=official.llm_vocab_size,
        codebook_size=official.codebook_size,
        num_image_tokens=official.num_vq_tokens,
        bos_token_id=bos,
        **seen,
    )


def phi_sizes(config: ShowoConfig) -> PhiSizes:
    """The transformer's sizes in our configuration."""
    return msgspec.convert(config, PhiSizes, from_attributes=True)


def to_official(config: ShowoConfig, llm: str) -> dict[str, Any]:
    """The official config.json; `llm` is where the official code finds the language model's sizes."""
    return {
        "_class_name": MODEL_CLASS,
        "_diffusers_version": "0.30.1",
        "codebook_size": config.codebook_size,
        "llm_model_path": llm,
        "llm_vocab_size": config.text_vocab_size,
        # False would make the official constructor read Phi's own weights first, to overwrite them.
        "load_from_showo": True,
        "mask_token_id": config.vocab_size - 1,
        "num_new_special_tokens": len(NEW_TOKENS),
        "num_vq_tokens": config.num_image_tokens,
        "vocab_size": config.vocab_size,
        "w_clip_vit": config.w_clip_vit,
    }


def to_phi(config: ShowoConfig) -> dict[str, Any]:
    """A Phi config.json with our sizes, as transformers reads it."""
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        **msgspec.structs.asdict(phi_sizes(config)),
        "num_key_value_heads": config.num_attention_heads,
        "hidden_act": "gelu_new",
        "qk_layernorm": True,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "vocab_size": config.vocab_size,
    }


def tokenizer_settings() -> dict[str, Any]:
    """A tokenizer_config.json under which the official scripts read the tokenizer.json beside it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": 2048,
    }
