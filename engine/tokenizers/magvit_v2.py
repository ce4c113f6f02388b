"""Show-o's own image tokenizer: MAGVIT-v2 with lookup-free quantisation, 2 ** 13 codes of 16 x 16 pixels.

Source: MAGVIT-v2 (arXiv 2310.05737) as in Show-o's released code (arXiv 2408.12528). The release is
`showlab/magvitv2`: a config.json without sizes, since the official code fixes them, and pytorch_model.bin.
Legend: B batch, K bits, H W pixels, h w tokens, N = h*w.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from engine.errors import UNREADABLE, CheckpointError, ConfigError, DataError
from engine.files.tensors import check_tensors, layout_of
from engine.records import Record
from engine.tokenizers.magvit_v2_blocks import (
    COLOURS,
    GROUPS,
    Decoder,
    Encoder,
    StackConfig,
    code_bits,
    sign_codes,
)

CODEBOOK = "quantize.embedding"
"""The bits of every code, [2 ** K, K]: stored by the official code, computed by ours."""
PLACE_VALUES = "quantize.power_vals"
"""What each bit adds to a code, [K]: likewise."""


class MagvitV2Config(Record, forbid_unknown_fields=True):
    """Sizes of a MagvitV2; the defaults are the release's."""

    image_size: int = 256
    """Pixels on a side. The weights serve any multiple of `factor`: Show-o uses 256 and 512."""
    bits: int = 13
    """K, the official z_channels and codebook_dim."""
    encoder: StackConfig = StackConfig(ch_mult=(1, 2, 2, 4, 4), num_res_blocks=(4, 3, 4, 3, 4))
    decoder: StackConfig = StackConfig(ch_mult=(1, 1, 2, 2, 4), num_res_blocks=(4, 4, 3, 4, 3))
    kind: Literal["magvit_v2"] = "magvit_v2"

    def __post_init__(self) -> None:
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            if not len(stack.ch_mult) == len(stack.num_res_blocks) == len(self.encoder.ch_mult) > 0:
                raise ConfigError(
                    f"{name}: ch_mult {stack.ch_mult} and num_res_blocks {stack.num_res_blocks} must be as"
                    f" long as the encoder's ch_mult {self.encoder.ch_mult}, and not empty"
                )
            if min(stack.num_res_blocks) < 1:
                raise ConfigError(f"{name}: num_res_blocks is {stack.num_res_blocks}; each is at least 1")
            if any(width < 1 or width % GROUPS for width in (stack.ch, *stack.widths)):
                raise ConfigError(
                    f"{name}: ch {stack.ch} gives widths {stack.widths}; each must be a multiple of {GROUPS}"
                )
        if not 1 <= self.bits <= 62:
            raise ConfigError(f"bits is {self.bits}; a code has 1 to 62")
        if self.image_size < 1 or self.image_size % self.factor:
            raise ConfigError(f"image_size is {self.image_size}; it must be a multiple of {self.factor}")

    @property
    def factor(self) -> int:
        """Pixels on a side of a token."""
        return 2 ** (len(self.encoder.ch_mult) - 1)


class MagvitV2(nn.Module):
    """Encoder, sign, decoder. Computes in float32, one image at a time.

    Convolutions round differently in batches of different sizes, and a z near 0 then changes its sign: an
    image's codes must not depend on what it was encoded with. Nor would 64 images of 512 px fit into memory.
    """

    def __init__(self, config: MagvitV2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.bits)
        self.decoder = Decoder(config.decoder, config.bits)

    def latent(self, pixels: Tensor) -> Tensor:
        """z before the sign, [B, K, h, w]."""
        return self.encoder(pixels)

    def reconstruct(self, bits: Tensor) -> Tensor:
        """Bits in {-1, 1}, [B, K, h, w] -> pixels, not clamped."""
        return self.decoder(bits)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] float in [-1, 1] -> codes [B, h*w] int64, row-major.

        Raises:
            DataError: the sides are not multiples of a token's.
        """
        factor = self.config.factor
        if pixels.dim() != 4 or pixels.shape[1] != COLOURS or any(side % factor for side in pixels.shape[2:]):
            raise DataError(
                f"pixels of shape {list(pixels.shape)} cannot be encoded; wanted is [B, {COLOURS}, H, W] with"
                f" H and W multiples of {factor}"
            )
        return torch.cat([sign_codes(self.latent(one)) for one in pixels.split(1)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, h*w] of square images -> [B, 3, H, W] float, about [-1, 1], where the weights lie.

        Raises:
            DataError: too many or too few codes, or one outside the codebook (not looked for on a GPU, which
                the look would wait for: give codes that lie on the CPU).
        """
        side, limit = self.config.image_size // self.config.factor, 2**self.config.bits
        known = codes.device.type != "cpu" or not ((codes < 0) | (codes >= limit)).any()
        if codes.dim() != 2 or codes.shape[1] != side**2 or not known:
            raise DataError(
                f"an image of {self.config.image_size} pixels is {side**2} codes from 0 to {limit - 1}; these"
                f" are {list(codes.shape)}"
                + (f" from {int(codes.min())} to {int(codes.max())}" if codes.numel() else "")
            )
        codes = codes.to(next(self.parameters()).device)
        bits = code_bits(codes, self.config.bits).unflatten(-1, (side, side))
        return torch.cat([self.reconstruct(one) for one in bits.split(1)])


def magvit_v2_from(config: MagvitV2Config, state: dict[str, Tensor], where: Path) -> MagvitV2:
    """A tokenizer in eval mode with stored weights, ours or the official ones.

    Raises:
        CheckpointError: names every unknown, missing and mis-shaped tensor at once, or says that the stored
            codebook is not the one of lookup-free quantisation.
    """
    with torch.device("meta"):
        tokenizer = MagvitV2(config)
    weights = {name: tensor for name, tensor in state.items() if name not in (CODEBOOK, PLACE_VALUES)}
    check_tensors(layout_of(weights), tokenizer, where)
    _check_codebook(config.bits, state, where)
    tokenizer.to_empty(device="cpu").load_state_dict(weights)
    return tokenizer.requires_grad_(False).eval()


def _check_codebook(bits: int, state: dict[str, Tensor], where: Path) -> None:
    """Another order of the bits would give wrong images without any other sign."""
    wanted = {PLACE_VALUES: 2 ** torch.arange(bits - 1, -1, -1)}
    if CODEBOOK in state:
        wanted[CODEBOOK] = code_bits(torch.arange(2**bits)[None], bits)[0].T
    for name, expected in wanted.items():
        if name in state and not torch.equal(state[name].to(expected.dtype), expected):
            raise CheckpointError(f"{where}: {name} is not that of lookup-free quantisation with {bits} bits")


class _OfficialStack(Record, forbid_unknown_fields=True):
    """Arguments of the official VQGANEncoder and VQGANDecoder."""

    ch_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    ch: int = 128
    attn_resolutions: tuple[int, ...] = (5,)
    dropout: float = 0.0
    in_ch: Literal[3] = 3
    out_ch: Literal[3] = 3
    resolution: int = 256
    z_channels: int = 13
    double_z: Literal[False] = False

    def ours(self) -> StackConfig:
        """The same without what does not shape inference."""
        hit = {self.resolution >> level for level in range(len(self.ch_mult))} & set(self.attn_resolutions)
        if hit:
            raise ConfigError(f"attention at resolutions {sorted(hit)} is not supported, only in the middle")
        return StackConfig(ch=self.ch, ch_mult=self.ch_mult, num_res_blocks=self.num_res_blocks)


class _Official(Record):
    """The official config.json; the release's has the class name and a version only."""

    class_name: Literal["MAGViTv2", "MAGVITv2"] = msgspec.field(name="_class_name")
    """The class was renamed in the course of the official code."""
    encoder: _OfficialStack | None = None
    decoder: _OfficialStack | None = None
    codebook_dim: int = 13


def official_config(raw: bytes, image_size: int = 256) -> MagvitV2Config:
    """The configuration that an official config.json means, for images of `image_size` pixels.

    Sizes that it leaves out are the release's, as are all in the release's own file: the official class takes
    no arguments. Other keys are not read, and the tensors are checked against the sizes in any case.

    Raises:
        ConfigError: not of a MAGViTv2, or with a size that this code does not know.
    """
    try:
        found = msgspec.json.decode(raw, type=_Official)
    except UNREADABLE as error:
        raise ConfigError(f"not a configuration of MAGViTv2: {error}") from error
    depths = {stack.z_channels for stack in (found.encoder, found.decoder) if stack} | {found.codebook_dim}
    if len(depths) > 1:
        raise ConfigError(f"z_channels and codebook_dim are {sorted(depths)}; they must be equal")
    release = MagvitV2Config()
    return MagvitV2Config(
        image_size=image_size,
        bits=found.codebook_dim,
        encoder=found.encoder.ours() if found.encoder else release.encoder,
        decoder=found.decoder.ours() if found.decoder else release.decoder,
    )
