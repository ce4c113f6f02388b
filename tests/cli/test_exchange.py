"""`hermes import` and `hermes export` as a user types them, on a small checkpoint of the official kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.checkpoints.weights import save_checkpoint
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.tokenizers.image import save_image_tokenizer
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config
from engine.tokenizers.magvit_v2_blocks import StackConfig
from engine.tokenizers.text import word_tokenizer

IMPORT = (
    "import",
    "--family",
    "showo",
    "--weights",
    "out",
    "--vq",
    "out/magvitv2",
    "--text-tokenizer",
    "out/phi",
)
EXPORT = ("export", "--checkpoint", "checkpoint", "--to", "out")


def hermes(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hermes_cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small trained checkpoint and its export in `out`."""
    cwd = tmp_path_factory.mktemp("exchange")
    text = word_tokenizer(["a red cube and a blue ball"])
    config = ShowoConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        text_vocab_size=text.size,
        codebook_size=64,
        num_image_tokens=16,
        bos_token_id=text.size - 1,
    )
    torch.manual_seed(0)
    save_checkpoint(Showo(config), cwd / "checkpoint")
    text.save(cwd / "checkpoint" / "tokenizer.json")
    stack = StackConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=(1, 1, 1))
    image = MagvitV2(MagvitV2Config(image_size=16, bits=6, encoder=stack, decoder=stack))
    save_image_tokenizer(image, cwd / "checkpoint" / "image_tokenizer")
    done = hermes(cwd, *EXPORT)
    assert done.returncode == 0, done.stderr
    assert f"pretrained_model_path: {cwd / 'out'}" in done.stdout
    return cwd


@pytest.fixture
def cwd(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_an_export_is_imported_and_exported_again_unchanged(cwd: Path) -> None:
    done = hermes(cwd, *IMPORT, "--to", "again")
    assert done.returncode == 0, done.stderr
    assert "in float32, 1 layers" in done.stdout
    assert "--model again" in done.stdout
    for name in ("config.json", "model.safetensors", "image_tokenizer/config.json"):
        assert (cwd / "again" / name).read_bytes() == (cwd / "checkpoint" / name).read_bytes()
    assert hermes(cwd, "export", "--checkpoint", "again", "--to", "out2").returncode == 0
    for name in ("pytorch_model.safetensors", "hermes.json", "magvitv2/pytorch_model.safetensors"):
        assert (cwd / "out2" / name).read_bytes() == (cwd / "out" / name).read_bytes()


def test_options_choose_the_stored_type_and_the_image_size(cwd: Path) -> None:
    done = hermes(cwd, *IMPORT, "--to", "again", "--dtype", "bfloat16", "--image-tokens", "64")
    assert done.returncode == 0, done.stderr
    assert "in bfloat16" in done.stdout
    assert "64 tokens an image" in done.stdout
    assert json.loads((cwd / "again/image_tokenizer/config.json").read_text())["image_size"] == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*IMPORT, "--to", "checkpoint"), "checkpoint: is there already and is left alone"),
        ((*IMPORT, "--to", "again", "--clip", "vit"), "leave out --clip vit"),
        ((*IMPORT, "--to", "again", "--family", "janus"), "--family janus: not known; known is showo"),
        ((*IMPORT, "--to", "again", "--weights", "nowhere"), "nowhere: no config.json in this folder"),
        ((*IMPORT, "--to", "again", "--weights", "checkpoint"), "names hermes_showo, not Showo"),
        ((*IMPORT, "--to", "again", "--vq", "out"), "--vq is the folder of showlab/magvitv2"),
        ((*IMPORT, "--to", "again", "--text-tokenizer", "out/magvitv2"), "Show-o's text side is 'phi'"),
        (EXPORT, "out: is there already and is left alone"),
        (("export", "--checkpoint", "nowhere", "--to", "new"), "nowhere: no config.json in this folder"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    exported: Path, arguments: tuple[str, ...], words: str
) -> None:
    before = sorted(exported.iterdir())
    done = hermes(exported, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("hermes: ")
    assert done.stderr.strip().count("\n") == 0
    assert words in done.stderr
    assert sorted(exported.iterdir()) == before


def test_a_clip_variant_without_its_tower_is_refused_in_one_line(cwd: Path) -> None:
    path = cwd / "out" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "w_clip_vit": True}))
    done = hermes(cwd, *IMPORT, "--to", "again")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "give the folder of openai/clip-vit-large-patch14-336 with --clip" in done.stderr
    assert not (cwd / "again").exists()
