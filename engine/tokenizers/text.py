"""Text to ids and back through a `tokenizer.json`, and the word-level tokenizer of the embedded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from engine.errors import CheckpointError

END_OF_TEXT = "<|endoftext|>"


class TextTokenizer:
    """A thin, special-token-free face of a Hugging Face `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # What a caption spells is text: `<|endoftext|>` in it must not end it.
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Reads a tokenizer.json.

        Raises:
            CheckpointError: the file is missing or not a tokenizer.
        """
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path}: no usable tokenizer: {error}") from error

    def save(self, path: Path) -> None:
        """Writes a tokenizer.json."""
        self._tokenizer.save(str(path))

    @property
    def size(self) -> int:
        """Number of ids, END_OF_TEXT included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without specials, also where it spells one.

        Raises:
            CheckpointError: the tokenizer has no id for a part of it, nor one for what is unknown.
        """
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"the text tokenizer cannot read {text[:80]!r}: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; ids outside the text vocabulary are left out, as are specials."""
        return self._tokenizer.decode([i for i in ids if i < self.size], skip_special_tokens=True).strip()


def word_tokenizer(texts: Iterable[str]) -> TextTokenizer:
    """A lower-case word-level tokenizer over the words of `texts`, in alphabetical order."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text.lower())})
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return TextTokenizer(tokenizer)
