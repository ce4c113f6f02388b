"""Encoder and decoder of MAGVIT-v2 as Show-o trained it, under the official parameter names.

Source: Show-o (arXiv 2408.12528), released code. Convolutions over single images, with one attention in the
middle of each stack.
Legend: B batch, C channels, K bits, H W pixels, h w tokens, N = h*w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.records import Record

GROUPS = 32
"""Groups of every GroupNorm; widths are multiples of it."""
EPS = 1e-6
COLOURS = 3


class StackConfig(Record, forbid_unknown_fields=True):
    """Widths and depths of an encoder or decoder, from the pixels' resolution to the tokens'."""

    ch_mult: tuple[int, ...]
    """Width at each resolution as a multiple of `ch`; each resolution is half the one before."""
    num_res_blocks: tuple[int, ...]
    """Residual blocks at each resolution."""
    ch: int = 128

    @property
    def widths(self) -> tuple[int, ...]:
        """C at each resolution."""
        return tuple(self.ch * multiple for multiple in self.ch_mult)


def norm(channels: int) -> nn.GroupNorm:
    """The GroupNorm of every block."""
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution of x where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv3(inputs, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = conv3(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(inner)))


class Attention(nn.Module):
    """x + one head over all positions, scaled by C ** -0.5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q_BNC, k_BNC, v_BNC = (
            project(normed).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v)
        )
        mixed_BNC = F.scaled_dot_product_attention(q_BNC, k_BNC, v_BNC)
        return x + self.proj_out(mixed_BNC.transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    """What both stacks do at the tokens' resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Halve(nn.Module):
    """A strided convolution; the one row and column of padding lie below and to the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def res_blocks(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """`count` blocks, the first of which changes the width."""
    return nn.Sequential(*(ResBlock(inputs if i == 0 else outputs, outputs) for i in range(count)))


class DownLevel(nn.Module):
    """One resolution of the encoder."""

    def __init__(self, inputs: int, outputs: int, count: int, last: bool) -> None:
        super().__init__()
        self.block = res_blocks(inputs, outputs, count)
        self.downsample = nn.Identity() if last else Halve(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.block(x))


class UpLevel(nn.Module):
    """One resolution of the decoder."""

    def __init__(self, inputs: int, outputs: int, count: int, last: bool) -> None:
        super().__init__()
        self.block = res_blocks(inputs, outputs, count)
        self.upsample = nn.Identity() if last else Double(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.block(x))


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] -> z [B, K, h, w]."""

    def __init__(self, config: StackConfig, bits: int) -> None:
        super().__init__()
        widths, deepest = config.widths, len(config.widths) - 1
        self.conv_in = conv3(COLOURS, config.ch)
        self.down = nn.Sequential(
            *(
                DownLevel(inputs, outputs, count, last=i == deepest)
                for i, (inputs, outputs, count) in enumerate(
                    zip((config.ch, *widths), widths, config.num_res_blocks, strict=False)
                )
            )
        )
        self.mid = Middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = conv3(widths[-1], bits)
        self.quant_conv = nn.Conv2d(bits, bits, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.mid(self.down(self.conv_in(pixels)))
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Bits in {-1, 1}, [B, K, h, w] -> pixels [B, 3, H, W]."""

    def __init__(self, config: StackConfig, bits: int) -> None:
        super().__init__()
        widths = config.widths
        self.post_quant_conv = nn.Conv2d(bits, bits, 1)
        self.conv_in = conv3(bits, widths[-1])
        self.mid = Middle(widths[-1])
        # Level 0 is the pixels' resolution in the official names, though it runs last.
        self.up = nn.ModuleList(
            UpLevel(inputs, outputs, count, last=i == 0)
            for i, (inputs, outputs, count) in enumerate(
                zip((*widths[1:], widths[-1]), widths, config.num_res_blocks, strict=True)
            )
        )
        self.norm_out = norm(widths[0])
        self.conv_out = conv3(widths[0], COLOURS)

    def forward(self, bits: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(bits)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def code_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes [B, N] -> {-1, 1} float [B, K, N]; channel 0 holds the most significant bit."""
    shifts = torch.arange(bits - 1, -1, -1, device=codes.device)
    return ((codes[:, None] >> shifts[:, None] & 1) * 2 - 1).float()


def sign_codes(z: Tensor) -> Tensor:
    """z [B, K, h, w] -> codes [B, N] int64; a bit is z > 0, and channel 0 holds the most significant one."""
    weights = 2 ** torch.arange(z.shape[1] - 1, -1, -1, device=z.device)
    return ((z > 0).flatten(2).long() * weights[:, None]).sum(1)
