"""A Llama so small that it learns continuations by heart in seconds, in a folder that vLLM serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<|user|>", "<|model|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|model|>{% endif %}"
)


def small_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that has seen the texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[2:])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def small_llama(vocabulary: int, positions: int = 1024) -> LlamaForCausalLM:
    """Random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
        )
    )


def taught(
    folder: Path, plain: Sequence[tuple[str, str]], chat: Sequence[tuple[str, str]], most_steps: int = 600
) -> Path:
    """A folder with a model whose greedy continuation of each prompt is the given text, and then the end; the
    prompts of `chat` stand in the chat template.

    Raises:
        AssertionError: it has not learned them all.
    """
    tokenizer = small_tokenizer([text for pair in (*plain, *chat) for text in pair])
    model = small_llama(len(tokenizer))
    asked = [(list(tokenizer(prompt).input_ids), text) for prompt, text in plain]
    asked += [(_chat_ids(tokenizer, prompt), text) for prompt, text in chat]
    rows = [(ids, [*tokenizer(text).input_ids, tokenizer.eos_token_id]) for ids, text in asked]
    rows.sort(key=lambda row: len(row[0]))
    batches = [_batch(rows[start : start + 6]) for start in range(0, len(rows), 6)]
    _learn(model, batches, most_steps)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def _chat_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    messages = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def _batch(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Ids, and the ids wanted after each place, -100 where any will do; rows of like length share a batch."""
    width = max(len(prompt) + len(text) for prompt, text in rows)
    ids = torch.ones(len(rows), width, dtype=torch.long)
    wanted = torch.full((len(rows), width), -100)
    for row, (prompt, text) in enumerate(rows):
        ids[row, : len(prompt) + len(text)] = torch.tensor([*prompt, *text])
        wanted[row, len(prompt) - 1 : len(prompt) + len(text) - 1] = torch.tensor(text)
    return ids, wanted


def _learn(model: LlamaForCausalLM, batches: Sequence[tuple[Tensor, Tensor]], most_steps: int) -> None:
    """Trains until every wanted token is the likeliest by far."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(most_steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (step + 1) / 20)
        losses = []
        for ids, wanted in batches:
            told = wanted != -100
            logits = model.lm_head(model.model(ids).last_hidden_state[told])
            losses.append(F.cross_entropy(logits, wanted[told], reduction="none"))
        loss = torch.cat(losses)
        if loss.max() < 0.4:
            return
        optimizer.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(f"the small model has not learned its texts: {loss.max().item():.3f} nats at worst")
