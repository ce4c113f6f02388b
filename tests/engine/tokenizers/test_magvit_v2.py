"""MAGVIT-v2 against the official code's stored results, its files, and the errors where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import CheckpointError, ConfigError, DataError
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, load_image_tokenizer, save_image_tokenizer
from engine.tokenizers.magvit_v2 import (
    MagvitV2,
    MagvitV2Config,
    magvit_v2_from,
    official_config,
)
from engine.tokenizers.magvit_v2_blocks import StackConfig, code_bits, sign_codes

TOLERANCE = 1e-4
"""Largest difference allowed to the official pixels and z; measured 6.4e-6 and 2.0e-6."""

RELEASE = b'{"_class_name": "MAGViTv2", "_version": "0.0.1"}'
"""What the official code writes: its constructor has no arguments, and refuses a file that names any."""

TINY = StackConfig(ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=(1, 1, 1, 1, 1))


def tiny_config(image_size: int = 64) -> MagvitV2Config:
    return MagvitV2Config(image_size=image_size, bits=6, encoder=TINY, decoder=TINY)


def pixels(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def official_state(model: MagvitV2) -> dict[str, Tensor]:
    """A model's weights as the official code stores them, with the quantiser's buffers."""
    bits = model.config.bits
    table = torch.tensor(
        [[(code >> k & 1) * 2.0 - 1 for k in reversed(range(bits))] for code in range(2**bits)]
    )
    places = torch.tensor([2**k for k in reversed(range(bits))])
    return {**model.state_dict(), "quantize.embedding": table, "quantize.power_vals": places}


@pytest.fixture(scope="module")
def tiny() -> MagvitV2:
    """A small random tokenizer of 64 px images whose codes differ."""
    torch.manual_seed(0)
    model = MagvitV2(tiny_config()).eval()
    model.encoder.quant_conv.weight.data.mul_(20)
    model.encoder.quant_conv.bias.data.zero_()
    return model


@pytest.fixture
def stored(tiny: MagvitV2, tmp_path: Path) -> Path:
    """The small tokenizer's folder."""
    save_image_tokenizer(tiny, tmp_path / "image_tokenizer")
    return tmp_path / "image_tokenizer"


@pytest.fixture(scope="module")
def official(golden: Path) -> MagvitV2:
    """The golden tokenizer, from the official sizes and tensor names."""
    sizes = json.loads((golden / "config.json").read_bytes())["magvit"]
    config = official_config(json.dumps({**sizes, "_class_name": "MAGViTv2"}).encode(), image_size=64)
    return magvit_v2_from(config, load_file(golden / "magvit.safetensors"), golden)


@pytest.fixture(scope="module")
def case(golden: Path) -> dict[str, Tensor]:
    """What the official code computed with the golden tokenizer."""
    return {name: torch.from_numpy(array) for name, array in np.load(golden / "case7_magvit.npz").items()}


@pytest.mark.parametrize("prefix", ["", "rect_"])
def test_codes_are_the_official_ones(official: MagvitV2, case: dict[str, Tensor], prefix: str) -> None:
    with torch.no_grad():
        gap = (official.latent(case[f"{prefix}image"]) - case[f"{prefix}z"]).abs().max().item()
    print(f"largest difference of z: {gap:.1e}")
    assert gap < TOLERANCE
    codes = official.encode(case[f"{prefix}image"])
    assert codes.dtype == torch.int64
    assert torch.equal(codes, case[f"{prefix}codes"])


@pytest.mark.parametrize(("codes", "decoded"), [("codes", "decoded"), ("random_codes", "random_decoded")])
def test_pixels_are_the_official_ones(
    official: MagvitV2, case: dict[str, Tensor], codes: str, decoded: str
) -> None:
    gap = (official.decode(case[codes]) - case[decoded]).abs().max().item()
    print(f"largest difference of a pixel: {gap:.1e}")
    assert gap < TOLERANCE


def test_an_image_that_is_not_square_decodes_to_the_official_pixels(
    official: MagvitV2, case: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        ours = official.reconstruct(code_bits(case["rect_codes"], 6).unflatten(-1, (4, 6)))
    assert (ours - case["rect_decoded"]).abs().max().item() < TOLERANCE


def test_the_golden_codebook_is_ours(golden: Path) -> None:
    stored = load_file(golden / "magvit.safetensors")["quantize.embedding"]
    assert torch.equal(code_bits(torch.arange(64)[None], 6)[0].T, stored)


def test_channel_zero_holds_the_most_significant_bit() -> None:
    assert code_bits(torch.tensor([[0b0101, 0b1000]]), 4)[0].T.tolist() == [[-1, 1, -1, 1], [1, -1, -1, -1]]
    assert sign_codes(torch.tensor([0.0, 3.0, -2.0, 1e-9]).view(1, 4, 1, 1)).tolist() == [[0b0101]]


def test_every_code_survives_the_way_to_bits_and_back() -> None:
    codes = torch.arange(2**13).view(8, 1024)
    assert torch.equal(sign_codes(code_bits(codes, 13).unflatten(-1, (32, 32))), codes)


def test_the_defaults_have_the_release_s_sizes() -> None:
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape) for name, tensor in MagvitV2(MagvitV2Config()).state_dict().items()
        }
    wanted = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.0.block.3.conv2.weight": (128, 128, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.downsample.conv.weight": (512, 512, 3, 3),
        "encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        "encoder.conv_out.weight": (13, 512, 3, 3),
        "encoder.quant_conv.weight": (13, 13, 1, 1),
        "decoder.post_quant_conv.weight": (13, 13, 1, 1),
        "decoder.conv_in.weight": (512, 13, 3, 3),
        "decoder.up.4.block.2.conv1.weight": (512, 512, 3, 3),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {name: shapes.get(name) for name in wanted} == wanted
    assert not {"encoder.down.4.downsample.conv.weight", "decoder.up.0.upsample.conv.weight"} & shapes.keys()
    assert not [name for name in shapes if ".attn." in name]


def test_codes_do_not_depend_on_the_batch_or_the_run(tiny: MagvitV2) -> None:
    images = pixels(5, 64)
    codes = tiny.encode(images)
    assert codes.unique().numel() > 1
    assert torch.equal(codes, tiny.encode(images))
    assert torch.equal(codes, torch.cat([tiny.encode(image[None]) for image in images]))
    assert torch.equal(tiny.decode(codes)[3:4], tiny.decode(codes[3:4]))


def test_no_images_are_no_codes(tiny: MagvitV2) -> None:
    assert tiny.encode(pixels(0, 64)).shape == (0, 16)
    assert tiny.decode(torch.zeros(0, 16, dtype=torch.int64)).shape == (0, 3, 64, 64)


def test_the_same_weights_serve_256_and_512_pixels(tiny: MagvitV2) -> None:
    for size, count in ((256, 256), (512, 1024)):
        model = magvit_v2_from(tiny_config(size), tiny.state_dict(), Path("memory"))
        codes = model.encode(pixels(1, size))
        assert codes.shape == (1, count)
        assert model.decode(codes).shape == (1, 3, size, size)


def test_a_saved_tokenizer_loads_by_its_kind(tiny: MagvitV2, stored: Path) -> None:
    loaded = load_image_tokenizer(stored)
    assert isinstance(loaded, MagvitV2)
    assert not loaded.training
    assert loaded.config == tiny.config
    assert json.loads((stored / "config.json").read_bytes())["image_size"] == 64
    codes = tiny.encode(pixels(2, 64))
    assert torch.equal(loaded.encode(pixels(2, 64)), codes)
    assert torch.equal(loaded.decode(codes), tiny.decode(codes))


def test_the_small_tokenizer_still_loads_by_its_kind(tmp_path: Path) -> None:
    save_image_tokenizer(PatchLfq(PatchLfqConfig(bits=6, width=8)), tmp_path)
    assert isinstance(load_image_tokenizer(tmp_path), PatchLfq)


def test_official_weights_load_from_our_folder_too(tiny: MagvitV2, stored: Path) -> None:
    save_file(official_state(tiny), stored / "model.safetensors")
    assert torch.equal(load_image_tokenizer(stored).encode(pixels(1, 64)), tiny.encode(pixels(1, 64)))


def test_a_release_keeps_its_codes_in_our_form(tiny: MagvitV2, tmp_path: Path) -> None:
    stack = {"ch": 32, "ch_mult": TINY.ch_mult, "num_res_blocks": TINY.num_res_blocks, "z_channels": 6}
    sizes = {"encoder": stack, "decoder": stack, "codebook_dim": 6}
    config = official_config(json.dumps({**json.loads(RELEASE), **sizes}).encode(), 64)
    assert config == tiny.config
    save_image_tokenizer(magvit_v2_from(config, official_state(tiny), Path("memory")), tmp_path)
    assert torch.equal(load_image_tokenizer(tmp_path).encode(pixels(1, 64)), tiny.encode(pixels(1, 64)))


def test_every_tensor_that_does_not_fit_is_named_in_one_line(tiny: MagvitV2, stored: Path) -> None:
    state = official_state(tiny)
    del state["encoder.conv_in.bias"], state["decoder.norm_out.weight"]
    state["loss.discriminator.main.0.weight"] = torch.zeros(1)
    state["encoder.conv_out.weight"] = torch.zeros(13, 32, 3, 3)
    save_file(state, stored / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_image_tokenizer(stored)
    assert str(caught.value) == (
        f"{stored}: the weights do not fit: unknown loss.discriminator.main.0.weight;"
        " missing decoder.norm_out.weight; missing encoder.conv_in.bias;"
        " encoder.conv_out.weight has shape [13, 32, 3, 3], the model [6, 32, 3, 3]"
    )


def test_a_truncated_file_is_one_line(stored: Path) -> None:
    path = stored / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no usable image tokenizer") as caught:
        load_image_tokenizer(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["quantize.embedding", "quantize.power_vals"])
def test_a_codebook_in_another_order_is_refused(tiny: MagvitV2, stored: Path, name: str) -> None:
    state = official_state(tiny)
    state[name] = state[name].flip(-1).contiguous()
    save_file(state, stored / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} is not that of lookup-free quantisation"):
        load_image_tokenizer(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vqgan"}, "kind 'vqgan', known are"),
        ({"kind": None}, "Expected `str`"),
        ({"colour": 3}, "unknown field `colour`"),
        ({"image_size": 100}, "image_size is 100; it must be a multiple of 16"),
        ({"bits": 0}, "bits is 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(stored: Path, change: dict[str, object], message: str) -> None:
    path = stored / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_image_tokenizer(stored)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (StackConfig(ch=32, ch_mult=(1, 1), num_res_blocks=(1, 1)), "as long as the encoder's"),
        (StackConfig(ch=32, ch_mult=(1,) * 5, num_res_blocks=(1, 1, 0, 1, 1)), "each is at least 1"),
        (StackConfig(ch=48, ch_mult=(2,) * 5, num_res_blocks=(1,) * 5), "multiple of 32"),
    ],
)
def test_stacks_that_cannot_be_are_refused(stack: StackConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MagvitV2Config(decoder=stack)


def test_the_release_s_config_means_the_official_sizes() -> None:
    assert official_config(RELEASE) == official_config(b'{"_class_name": "MAGVITv2"}') == MagvitV2Config()
    assert official_config(RELEASE, 512) == MagvitV2Config(image_size=512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "VQModel"}, "not a configuration of MAGViTv2"),
        ({"codebook_dim": 12, "encoder": {"ch_mult": [1], "num_res_blocks": [1]}}, r"\[12, 13\]"),
        ({"encoder": {"ch_mult": [1, 2], "num_res_blocks": [1, 1], "attn_resolutions": [128]}}, r"\[128\]"),
        ({"encoder": {"ch_mult": [1], "num_res_blocks": [1], "double_z": True}}, "double_z"),
    ],
)
def test_official_sizes_that_we_do_not_know_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        official_config(json.dumps({**json.loads(RELEASE), **change}).encode())


@pytest.mark.parametrize("shape", [(1, 3, 64, 60), (1, 1, 64, 64), (3, 64, 64)])
def test_pixels_that_make_no_tokens_are_refused(tiny: MagvitV2, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="multiples of 16"):
        tiny.encode(torch.zeros(shape))


@pytest.mark.parametrize(("count", "code"), [(15, 0), (16, 64), (16, -1)])
def test_codes_that_are_no_image_are_refused(tiny: MagvitV2, count: int, code: int) -> None:
    with pytest.raises(DataError, match="16 codes from 0 to 63"):
        tiny.decode(torch.full((1, count), code))


@pytest.mark.slow
def test_a_checkpoint_of_the_release_s_size_makes_the_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = MagvitV2(MagvitV2Config()).eval()
    model.encoder.quant_conv.weight.data.mul_(20)
    release = magvit_v2_from(official_config(RELEASE), official_state(model), Path("memory"))
    save_image_tokenizer(release, tmp_path / "image_tokenizer")
    loaded = load_image_tokenizer(tmp_path / "image_tokenizer")
    assert isinstance(loaded, MagvitV2)
    codes = loaded.encode(pixels(1, 256))
    assert codes.shape == (1, 256)
    assert 0 <= int(codes.min()) < int(codes.max()) < 8192
    assert torch.equal(codes, model.encode(pixels(1, 256)))
    decoded = loaded.decode(codes)
    assert decoded.shape == (1, 3, 256, 256)
    assert torch.equal(decoded, model.decode(codes))
