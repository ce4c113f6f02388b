"""Configuration of a Show-o model: Phi sizes, the joint vocabulary, prompt wording, image defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from engine.models.showo_vocabulary import Vocabulary


class ShowoConfig(PreTrainedConfig):
    """Sizes under the names that Phi uses in transformers, and what a unified model adds to them.

    `vocab_size` is text_vocab_size + 10 specials + codebook_size + 1 mask token (Show-o's layout).

    `vqa_choices_prompt` asks a question with its choices; empty where the model was not taught any.
    `caption_tokens` is how long a caption gets unless a run says otherwise, `answer_tokens` a free answer.

    With `w_clip_vit`, understanding sees `clip_tokens` projected CLIP features of `clip_size` instead of
    codes, after a system prompt of `system_ids`; image generation is the same.
    """

    model_type = "hermes_showo"

    def __init__(
        self,
        hidden_size: int = 2048,
        intermediate_size: int = 8192,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 32,
        partial_rotary_factor: float = 0.5,
        rope_theta: float = 10000.0,
        layer_norm_eps: float = 1e-5,
        max_position_embeddings: int = 2048,
        text_vocab_size: int = 50295,
        codebook_size: int = 8192,
        num_image_tokens: int = 256,
        max_text_len: int = 128,
        caption_tokens: int = 32,
        answer_tokens: int = 8,
        caption_prompt: str = "USER: \nGive a caption for this image. ASSISTANT:",
        vqa_prompt: str = "USER: \n{question} ASSISTANT:",
        vqa_choices_prompt: str = "",
        bos_token_id: int = 50256,
        w_clip_vit: bool = False,
        clip_tokens: int = 576,
        clip_size: int = 1024,
        system_ids: Sequence[int] = (),
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.partial_rotary_factor = partial_rotary_factor
        self.rope_theta = rope_theta
        self.layer_norm_eps = layer_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.text_vocab_size = text_vocab_size
        self.codebook_size = codebook_size
        self.num_image_tokens = num_image_tokens
        self.max_text_len = max_text_len
        self.caption_tokens = caption_tokens
        self.answer_tokens = answer_tokens
        self.caption_prompt = caption_prompt
        self.vqa_prompt = vqa_prompt
        self.vqa_choices_prompt = vqa_choices_prompt
        self.w_clip_vit = w_clip_vit
        self.clip_tokens = clip_tokens
        self.clip_size = clip_size
        self.system_ids = list(system_ids)
        self.vocab_size = text_vocab_size + 10 + codebook_size + 1
        for derived in ("vocab_size", "head_dim", "num_key_value_heads", "eos_token_id", "pad_token_id"):
            kwargs.pop(derived, None)
        kwargs |= {
            "bos_token_id": bos_token_id,
            "eos_token_id": bos_token_id,
            "pad_token_id": text_vocab_size,
            "tie_word_embeddings": tie_word_embeddings,
        }
        super().__init__(**kwargs)

    @property
    def vocabulary(self) -> Vocabulary:
        """Where each special token and the image codes lie."""
        return Vocabulary(
            text_size=self.text_vocab_size,
            codebook_size=self.codebook_size,
            bos=self.bos_token_id,
        )

    @property
    def image_start(self) -> int:
        """Position of the first code or feature of an image to understand."""
        return len(self.system_ids) + 2 if self.w_clip_vit else 2

    @property
    def prefix_length(self) -> int:
        """Tokens of an understanding prompt that the tokens of its image see, wherever they stand."""
        return self.image_start + self.clip_tokens if self.w_clip_vit else self.num_image_tokens + 3

    @property
    def prefix_queries(self) -> int:
        """Leading tokens of a served prompt that see the whole prefix; those after them see what is past."""
        return self.clip_tokens if self.w_clip_vit else self.prefix_length

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)
