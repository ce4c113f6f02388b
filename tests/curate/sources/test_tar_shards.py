"""WebDataset shards: read in sequence, nothing unpacked, images found again."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from data_sets import QUESTION, bomb, folder_with_image, ids, png, reasons, rows_of, write_tar

from curate.sources import load_source, open_source
from engine.errors import DataError


def sample(key: str, green: int = 30) -> dict[str, bytes]:
    fields = {"caption": f"caption {key}", "questions": [QUESTION]}
    return {f"{key}.png": png((200, green, 30)), f"{key}.json": json.dumps(fields).encode()}


def test_samples_give_captions_questions_and_images(tmp_path: Path) -> None:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for i in range(6):
            members |= sample(f"{i:06d}", 100 * shard + 10 * i)
        write_tar(tmp_path / f"shard-{shard}.tar", members)
    source = load_source(str(tmp_path), "train", 0, 0, 48)
    items = source.items()
    assert [item.id for item in items[:6]] == [f"shard-0/{i:06d}" for i in (0, 1, 2, 3, 5)] + [
        "shard-1/000000"
    ]
    assert items[0].caption == "caption 000000"
    assert len(items[0].questions) == 1
    for item in reversed(items):
        shard, number = item.id.removeprefix("shard-").split("/")
        assert source.image(item)[0, 0, 1] == 100 * int(shard) + 10 * int(number)


def test_the_text_member_is_the_caption_where_json_has_none(tmp_path: Path) -> None:
    members = {
        "./a/1.jpg": png(),
        "./a/1.txt": "ein Würfel\n".encode(),
        "./a/1.json": b'{"id": 7, "width": 80}',
        "./a/2.seg.png": b"another kind of member",
        "./a/2.webp": png(),
        "./a/2.txt": b"two",
    }
    one, two = (row.item for row in rows_of(write_tar(tmp_path / "x.tar", members)))
    assert one
    assert two
    assert (one.id, one.caption) == ("7", "ein Würfel")
    assert (two.id, two.caption) == ("x/a/2", "two")


def test_bad_samples_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    members = {
        **sample("good"),
        "torn.png": png(),
        "torn.json": b'{"caption": "x',
        "textless.png": png(),
        "imageless.txt": b"x",
        "latin.png": png(),
        "latin.txt": b"W\xfcrfel",
        "long.png": png(),
        "long.txt": b"x" * (9 << 20),
        ".hidden.png": b"",
        "last.png": png(),
        "last.txt": b"last",
    }
    rows = rows_of(write_tar(tmp_path / "x.tar", members))
    assert ids(rows) == ["x/good", "x/last"]
    found = reasons(rows)
    assert "malformed" in found["x.tar:torn"] or "truncated" in found["x.tar:torn"]
    assert "caption" in found["x.tar:textless"]
    assert "no image" in found["x.tar:imageless"]
    assert "utf-8" in found["x.tar:latin"]
    assert "more than 8 MiB" in found["x.tar:long"]


def test_links_and_paths_that_lead_out_are_never_followed(tmp_path: Path) -> None:
    secret = folder_with_image(tmp_path / "elsewhere") / "a.png"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
            text = tarfile.TarInfo(name.replace("png", "txt"))
            text.size = 1
            archive.addfile(text, io.BytesIO(b"x"))
        for name, data in (("../../out.png", png()), ("../../out.txt", b"out")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    before = set(tmp_path.rglob("*"))
    source = open_source(str(path), "", 0, 48)
    rows = list(source.rows())
    assert [row.reason[:8] for row in rows] == ["no image", "no image", ""]
    # A name is only a name: the bytes come from the archive.
    assert source.image(source.items()[0]).shape == (48, 48, 3)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", ["in a header", "in a member", "after a header"])
def test_a_torn_shard_costs_what_is_torn_alone(tmp_path: Path, where: str) -> None:
    members: dict[str, bytes] = {}
    for i in range(5):
        members |= sample(f"{i}")
    path = write_tar(tmp_path / "a.tar", members)
    write_tar(tmp_path / "b.tar", sample("b"))
    with tarfile.open(path) as archive:
        start = archive.getmember("3.json").offset
    cut = {"in a header": start + 100, "in a member": start + 520, "after a header": start + 512}[where]
    path.write_bytes(path.read_bytes()[:cut])
    rows = rows_of(tmp_path)
    assert ids(rows)[:3] == ["a/0", "a/1", "a/2"]
    assert ids(rows)[-1] == "b/b"
    assert "the archive cannot be read on" in reasons(rows)["a.tar"]


def test_a_damaged_header_is_no_silent_end(tmp_path: Path) -> None:
    members = {**sample("0"), **sample("1"), **sample("2")}
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path) as archive:
        start = archive.getmember("1.png").offset
    content = bytearray(path.read_bytes())
    content[start + 5 : start + 200] = b"#" * 195
    path.write_bytes(content)
    rows = rows_of(path)
    assert ids(rows) == ["a/0", "a/2"]
    assert reasons(rows)[f"a.tar:byte {start}"] == "a header is damaged"
    assert "no image" in reasons(rows)["a.tar:1"]


@pytest.mark.parametrize("name", ["0.png", "1.png", "1.json", "2.json"])
def test_a_header_of_zeros_is_counted_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample("0"), **sample("1"), **sample("2")})
    with tarfile.open(path) as archive:
        start = archive.getmember(name).offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = bytes(512)
    path.write_bytes(content)
    rows = rows_of(path)
    assert ids(rows) == [f"a/{key}" for key in "012" if key != name[0]]
    # Neither this nor what is left of its sample moves another row.
    assert [row.position for row in rows if row.item] == [int(key) for key in "012" if key != name[0]]
    assert len(reasons(rows)) == 2
    assert any("header is damaged" in reason for reason in reasons(rows).values())


def test_archives_that_were_joined_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [write_tar(tmp_path / f"{key}.tar", sample(key, 100)).read_bytes() for key in "abc"]
    (tmp_path / "joined").mkdir()
    path = tmp_path / "joined/x.tar"
    path.write_bytes(b"".join(parts))
    source = open_source(str(path), "", 0, 48)
    rows = list(source.rows())
    assert (ids(rows), reasons(rows)) == (["x/a", "x/b", "x/c"], {})
    assert source.image(source.items()[2])[0, 0, 1] == 100


def test_images_that_cannot_be_read_are_one_clear_line_each(tmp_path: Path) -> None:
    members = {
        "0.png": b"not a picture",
        "0.txt": b"a",
        "1.png": bomb(),
        "1.txt": b"b",
        "2.png": b"",
        "2.txt": b"c",
    }
    source = open_source(str(write_tar(tmp_path / "x.tar", members)), "", 0, 48)
    items, _, bad = source.images(source.items())
    assert not items
    assert [
        word in one.reason
        for word, one in zip(("no known format", "64,000,000", "cannot be read"), bad, strict=True)
    ]
    assert all("x.tar#" in one.reason for one in bad)


def test_an_oversized_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    size = 65 << 20
    header = tarfile.TarInfo("0.png")
    header.size = size
    text = tarfile.TarInfo("0.txt")
    text.size = 1
    with path.open("wb") as stream:
        stream.write(header.tobuf())
        stream.seek(size, 1)
        stream.write(text.tobuf() + b"x".ljust(512, b"\0") + bytes(1024))
    source = open_source(str(path), "", 0, 48)
    with pytest.raises(DataError, match="more than 64 MiB"):
        source.image(source.items()[0])


def test_a_compressed_shard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(DataError, match="gunzip"):
        rows_of(tmp_path / "x.tar.gz")
    (tmp_path / "x.tar.gz").rename(tmp_path / "x.tar")
    with pytest.raises(DataError, match="gunzip"):
        rows_of(tmp_path / "x.tar")
