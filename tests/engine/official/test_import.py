"""Official releases of the plain kind become checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from official_release import (
    PHI,
    SENTENCES,
    SERVED,
    TEXT,
    VOCABULARY,
    Release,
    edited,
    files_of,
    official_config,
    official_tensors,
    random_tensors,
    write_json,
    write_weights,
)
from safetensors.torch import load_file
from transformers import CodeGenTokenizer, PhiConfig

from engine.checkpoints.weights import fingerprint, load_config, load_model
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.official import showo_layout as layout
from engine.official.showo import export_showo, import_showo
from engine.tokenizers.image import load_image_tokenizer
from engine.tokenizers.text import TextTokenizer


@pytest.mark.parametrize("clip", [0, 1024])
def test_our_modules_tensors_are_the_releases(clip: int) -> None:
    config = ShowoConfig(w_clip_vit=clip > 0)
    with torch.device("meta"):
        ours = Showo(config).state_dict()
    table = {name: list(tensor.shape) for name, tensor in ours.items()}
    assert table == official_tensors(24, 2048, 8192, 64, clip)
    assert config.vocab_size == VOCABULARY


def test_the_new_tokens_lie_where_the_vocabulary_has_them() -> None:
    vocabulary = ShowoConfig().vocabulary
    ids = {token: TEXT + i for i, token in enumerate(layout.NEW_TOKENS)}
    assert (ids["[PAD]"], ids["<|soi|>"], ids["<|eoi|>"]) == (vocabulary.pad, vocabulary.soi, vocabulary.eoi)
    assert (ids["<|t2i|>"], ids["<|mmu|>"]) == (vocabulary.t2i, vocabulary.mmu)
    assert ids["<|lvg|>"] + 1 == vocabulary.code_offset == 50305


@pytest.mark.parametrize(("name", "image_tokens"), SERVED)
def test_every_served_release_becomes_a_checkpoint(
    name: str, image_tokens: int, tmp_path: Path, parts: Path
) -> None:
    folder = Release(tmp_path, parts, image_tokens).read()
    config = load_config(folder)
    assert (config.num_image_tokens, config.vocab_size, config.text_vocab_size) == (
        image_tokens,
        VOCABULARY,
        TEXT,
    )
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, 50295)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 4)
    assert (config.max_text_len, config.vocabulary.mask) == (128, VOCABULARY - 1)
    held = load_model(folder).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in random_tensors().items())
    image = load_image_tokenizer(folder / "image_tokenizer")
    codes = torch.zeros(1, image_tokens, dtype=torch.int64)
    side = 16 * round(image_tokens**0.5)
    assert image.decode(codes).shape == (1, 3, side, side)


def test_all_file_layouts_give_the_same_checkpoint(tmp_path: Path, parts: Path) -> None:
    forms = ("bin", "st", "shards-bin", "shards-st")
    read = [files_of(Release(tmp_path / form, parts, form=form).read()) for form in forms]
    assert read[0] == read[1] == read[2] == read[3]


def test_weights_keep_their_type_unless_another_is_asked_for(tmp_path: Path, parts: Path) -> None:
    found = Release(tmp_path, parts)
    write_weights(found.weights, random_tensors(dtype=torch.bfloat16), "bin")
    stored = load_file(found.read() / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    wide = Release(tmp_path / "wide", parts)
    stored = load_file(wide.read(dtype=torch.bfloat16) / "model.safetensors")
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in random_tensors().items())


def test_phi_sizes_come_from_its_config_in_either_spelling_or_from_its_name(release: Release) -> None:
    old = {**PHI, "rope_scaling": None}
    new = PhiConfig(**{name: PHI[name] for name in ("hidden_size", "num_hidden_layers")}).to_dict()
    assert layout.parse_phi(old, "").num_attention_heads == 4
    assert layout.parse_phi(new, "") == layout.PhiSizes(hidden_size=64, num_hidden_layers=2)
    assert layout.parse_phi(PhiConfig().to_dict(), "") == layout.PhiSizes()
    (release.phi / "config.json").unlink()
    assert "the model [58498, 2048]" in release.refusal()
    edited(release.weights / "config.json", llm_model_path="/models/my-phi")
    assert "the sizes of '/models/my-phi' are not known" in release.refusal()


def test_encoding_equals_the_official_tokenizers(release: Release, tmp_path: Path) -> None:
    official = CodeGenTokenizer.from_pretrained(release.phi)
    official.save_pretrained(tmp_path / "whole")
    # What spells a special token is text, as Phi's own tokenizer has it where it is told to.
    expected = [official(text, split_special_tokens=True)["input_ids"] for text in SENTENCES]
    official.add_special_tokens({"pad_token": "[PAD]"})
    official.add_tokens(list(layout.NEW_TOKENS[1:]))
    assert official.convert_tokens_to_ids(list(layout.NEW_TOKENS)) == list(range(50295, 50305))
    files = TextTokenizer.load(release.read() / "tokenizer.json")
    shutil.rmtree(release.phi)
    shutil.copytree(tmp_path / "whole", release.phi)
    write_json(release.phi / "config.json", PHI)
    shutil.rmtree(release.to)
    whole = TextTokenizer.load(release.read() / "tokenizer.json")
    for text, ids in zip(SENTENCES, expected, strict=True):
        assert files.encode(text) == whole.encode(text) == ids
    assert files.decode([50301, *files.encode("a red cube"), 50256, 50295]) == "a red cube"


def test_the_golden_model_comes_through_import_with_its_logits(golden: Path, tmp_path: Path) -> None:
    sizes = json.loads((golden / "config.json").read_text())
    weights, phi, vq = tmp_path / "weights", tmp_path / "phi", tmp_path / "vq"
    write_weights(weights, load_file(golden / "weights.safetensors"), "bin")
    config = {**official_config(sizes["num_vq_tokens"]), "codebook_size": sizes["codebook_size"]}
    config |= {name: sizes[name] for name in ("vocab_size", "llm_vocab_size", "mask_token_id")}
    write_json(weights / "config.json", config)
    write_json(phi / "config.json", {**{name: sizes.get(name, PHI[name]) for name in PHI}, "vocab_size": 200})
    shutil.copyfile(golden / "tokenizer.json", phi / "tokenizer.json")
    write_json(vq / "config.json", {"_class_name": "MAGVITv2", **sizes["magvit"]})
    shutil.copyfile(golden / "magvit.safetensors", vq / "pytorch_model.safetensors")
    import_showo(weights, vq, phi, tmp_path / "checkpoint")
    model = load_model(tmp_path / "checkpoint")
    for case in ("case1_mmu", "case2_t2i"):
        stored = np.load(golden / f"{case}.npz")
        with torch.no_grad():
            hidden = model(torch.from_numpy(stored["ids"]), torch.from_numpy(stored["mask"]))
            logits = model.head(hidden)
        difference = (logits - torch.from_numpy(stored["logits"])).abs().max().item()
        print(f"{case}: largest logit difference {difference:.1e}")
        assert difference < 1e-4
    images = np.load(golden / "case7_magvit.npz")
    codes = load_image_tokenizer(tmp_path / "checkpoint" / "image_tokenizer").encode(
        torch.from_numpy(images["image"])
    )
    assert torch.equal(codes, torch.from_numpy(images["codes"]))


def write_full_size(weights: Path) -> int:
    """The 1.3B shape in bfloat16, 2.9 GB; the number of parameters."""
    generator = torch.Generator().manual_seed(0)
    shapes = official_tensors(24, 2048, 8192, 64)
    state = {
        name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02, generator=generator)
        for name, shape in shapes.items()
    }
    write_weights(weights, state, "bin")
    return sum(tensor.numel() for tensor in state.values())


def timed_import(*arguments: Path) -> tuple[float, float, float]:
    """Seconds of an import in a process of its own; its peak memory in GiB: all, and without mapped files."""
    code = (
        "import sys, time; from pathlib import Path; from engine.official.showo import import_showo;"
        "start = time.time(); import_showo(*map(Path, sys.argv[1:]));"
        "print(time.time() - start);"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    private = 0
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text()
        private = max([private, *(int(line.split()[1]) for line in status.split("\n") if "RssAnon" in line)])
        time.sleep(0.02)
    assert child.stdout is not None
    seconds, peak = child.stdout.read().split()
    assert child.returncode == 0
    return float(seconds), int(peak) / 2**20, private / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_full_size_is_imported_without_a_copy_in_memory(tmp_path: Path, parts: Path) -> None:
    weights, to = tmp_path / "weights", tmp_path / "checkpoint"
    parameters = write_full_size(weights)
    write_json(weights / "config.json", official_config(256))
    shutil.copytree(parts / "phi", tmp_path / "phi")
    (tmp_path / "phi" / "config.json").unlink()
    seconds, peak, private = timed_import(weights, parts / "vq", tmp_path / "phi", to)
    print(
        f"{parameters / 1e9:.2f}B parameters: {seconds:.1f} s, peak {peak:.1f} GiB with the mapped file,"
        f" {private:.1f} GiB without"
    )
    assert parameters == sum(tensor.numel() for tensor in load_file(to / "model.safetensors").values())
    assert private < 1.5
    with torch.device("meta"):
        model = Showo(load_config(to))
    model.load_state_dict(load_file(to / "model.safetensors"), assign=True)
    with torch.no_grad():
        hidden = model(torch.arange(8)[None] + 50290, torch.ones(1, 1, 8, 8, dtype=torch.bool))
        logits = model.head(hidden)
    assert logits.shape == (1, 8, VOCABULARY)
    assert bool(logits.isfinite().all())
    export_showo(to, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["llm_model_path"] == "microsoft/phi-1_5"
    shutil.rmtree(weights)
    out = tmp_path / "out"
    import_showo(out, out / "magvitv2", out / "phi", tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(to)
