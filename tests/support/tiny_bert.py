"""Small random BERTs and sentence-transformers models, written as folders with a vocabulary made here."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

WORDS = ("a", "red", "blue", "circle", "square", "and", "the", "three", "left", "of", "is", "there", "no")
POSITIONS = 512


def write_bert(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """A BERT of 48 hidden units with weights wide enough that texts differ; safetensors and vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [one for one in letters if one not in vocabulary] + [f"##{one}" for one in letters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=80,
            max_position_embeddings=POSITIONS,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def write_sentence_model(folder: Path, seed: int = 0) -> Path:
    """The same as a sentence-transformers model with mean pooling, at most 64 tokens a text."""
    write_bert(folder, seed)
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    kinds = ("Transformer", "Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, ("", "1_Pooling"), strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder
