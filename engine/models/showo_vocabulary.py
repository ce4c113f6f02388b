"""Show-o's joint vocabulary and its two prompt layouts, as plain lists of ids.

text ids | <|pad|> <|soi|> <|eoi|> <|sov|> <|eov|> <|t2i|> <|mmu|> <|t2v|> <|v2v|> <|lvg|> | codes | mask

`<|sot|>`, `<|eot|>`, bos and eos are one id of the text vocabulary. Position ids are 0..L-1, left padding
included, in training as in sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.records import Record


class Vocabulary(Record):
    """Where the special tokens, the image codes and the mask token lie."""

    text_size: int
    codebook_size: int
    bos: int

    @property
    def pad(self) -> int:
        """`<|pad|>`."""
        return self.text_size

    @property
    def soi(self) -> int:
        """`<|soi|>`, start of image."""
        return self.text_size + 1

    @property
    def eoi(self) -> int:
        """`<|eoi|>`, end of image."""
        return self.text_size + 2

    @property
    def t2i(self) -> int:
        """`<|t2i|>`, text to image."""
        return self.text_size + 5

    @property
    def mmu(self) -> int:
        """`<|mmu|>`, multimodal understanding."""
        return self.text_size + 6

    @property
    def eos(self) -> int:
        """End of a text; the same id as bos."""
        return self.bos

    @property
    def code_offset(self) -> int:
        """Id of image code 0."""
        return self.text_size + 10

    @property
    def mask(self) -> int:
        """The id that stands for a masked image code."""
        return self.code_offset + self.codebook_size

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1

    def image(self, codes: Sequence[int]) -> list[int]:
        """`<|soi|> codes <|eoi|>`; a code of -1 is the mask token."""
        ids = [self.mask if code < 0 else self.code_offset + code for code in codes]
        return [self.soi, *ids, self.eoi]

    def t2i_text(self, text_ids: Sequence[int], max_text_len: int) -> list[int]:
        """`[t2i][bos] text [eos]`, at most max_text_len + 1 ids, unpadded (official `t2i_gen_prompt`)."""
        ids = [self.t2i, self.bos, *text_ids, self.eos]
        return ids if len(ids) <= max_text_len + 1 else [*ids[:max_text_len], self.eos]

    def t2i_pad(self, text: Sequence[int], max_text_len: int) -> int:
        """Number of `<|pad|>` that stand left of a text from `t2i_text`: the first text token's position."""
        return max_text_len + 1 - len(text)

    def mmu_prefix(self, codes: Sequence[int]) -> list[int]:
        """`[mmu][soi] codes [eoi]`, the part that attends to itself in both directions."""
        return [self.mmu, *self.image(codes)]

    def feature_prompt(self, system: Sequence[int], count: int, text_ids: Sequence[int]) -> list[int]:
        """`[mmu] system [soi] features [eoi] text`, pads standing for the `count` features.

        The official code puts no `<|sot|>` here.
        """
        return [self.mmu, *system, self.soi, *[self.pad] * count, self.eoi, *text_ids]

    def mmu_prompt(self, codes: Sequence[int], text_ids: Sequence[int]) -> list[int]:
        """`[mmu][soi] codes [eoi][sot] text`, ready for a continuation that ends with eos."""
        return [*self.mmu_prefix(codes), self.bos, *text_ids]
