"""Digests of files are of what they hold, and are computed once."""

import hashlib
import os
import threading

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.inputs import contents
from sparse_ist_tf.inputs.contents import (
    READ_ANEW,
    UNREADABLE,
    content_digests,
    digest_of,
    stamp_of,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that were written long ago, which are worth a cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_WORTH_FILES", 1)
    monkeypatch.setattr(contents, "_SETTLED_NS", -(10**12))
    for i in range(100):
        write(tmp_path / "photos" / f"{i:02}.png", b"%d" % i)
    return tmp_path / "photos"


@pytest.fixture
def reads(monkeypatch):
    """The names of files that are read."""
    names, plain = [], contents.digest_of

    def noted(path):
        names.append(path.name)
        return plain(path)

    monkeypatch.setattr(contents, "digest_of", noted)
    return names


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def digests(folder):
    with os.scandir(folder) as entries:
        return content_digests(folder, {e.name: stamp_of(e) for e in entries})


def expected(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def cache_file(folder):
    [path] = (folder.parent / "cache" / "sparse_ist_tf" / "contents").iterdir()
    return path


def test_files_are_read_once(folder, reads):
    assert digests(folder) == expected(folder)
    assert len(reads) == 100
    reads.clear()
    assert digests(folder) == expected(folder)
    assert not reads
    write(folder / "07.png", b"another")
    write(folder / "new.png", b"new")
    (folder / "08.png").unlink()
    assert digests(folder) == expected(folder)
    assert sorted(reads) == ["07.png", "new.png"]


def test_a_change_that_keeps_size_and_time_of_modification_is_noticed(folder):
    before, file = digests(folder), folder / "42.png"
    stat = file.stat()
    write(file, b"24")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert digests(folder) == expected(folder) != before


def test_what_was_written_a_moment_ago_is_not_kept(folder, reads, monkeypatch):
    """Since a second write within a tick of the clock would leave the same stamp."""
    monkeypatch.setattr(contents, "_SETTLED_NS", 10**11)
    digests(folder)
    digests(folder)
    assert len(reads) == 200


def test_a_small_folder_has_no_cache(folder, monkeypatch):
    monkeypatch.setattr(contents, "_WORTH_FILES", 101)
    assert digests(folder) == expected(folder)
    assert not (folder.parent / "cache").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"\xff\x00" * 40,
        lambda data: data.replace(hashlib.sha256(b"7").hexdigest().encode(), b"0" * 64),
    ],
)
def test_a_damaged_cache_is_passed_over(folder, reads, damage, capsys):
    digests(folder)
    path = cache_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert digests(folder) == expected(folder)
    assert len(reads) == 200
    assert capsys.readouterr().err == f"warning: {path} is damaged and not used\n"
    assert digests(folder) == expected(folder)
    assert len(reads) == 200


def test_a_cache_that_can_not_be_written_is_one_line(folder, capsys):
    (folder.parent / "cache").write_text("")
    assert digests(folder) == expected(folder)
    [line] = capsys.readouterr().err.splitlines()
    assert "digests of files are not cached" in line


def test_writers_at_the_same_time_leave_a_whole_cache(folder, reads):
    threads = [threading.Thread(target=digests, args=(folder,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reads.clear()
    assert digests(folder) == expected(folder)
    assert not reads


def test_files_that_can_not_be_read_are_told_apart(folder, reads):
    (folder / "gone.png").symlink_to(folder / "nowhere")
    assert digests(folder)["gone.png"] == UNREADABLE
    (folder / "nowhere").mkdir()
    assert digests(folder)["gone.png"] == UNREADABLE
    assert reads.count("gone.png") == 2


def test_a_file_of_which_other_pixels_were_read_before_is_known_by_how_it_is_read(tmp_path):
    """So that no features of the pixels of before are taken for its own."""
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for kind in ("jpeg", "png", "webp", "tiff"):
        for orientation in (None, 1, 6, 8):
            path, exif = tmp_path / f"{orientation}.{kind}", Image.Exif()
            if orientation:
                exif[0x0112] = orientation
            picture.save(path, exif=exif)
            plain = hashlib.sha256(path.read_bytes()).hexdigest()
            found = digest_of(path)
            turned = orientation in (6, 8) and kind != "tiff"  # those Pillow always turned
            assert (found == plain) == (not turned)
            assert found.endswith(READ_ANEW) == turned
    for name, pixels, anew in (
        ("float", np.ones((4, 4), np.float32), True),
        ("deep", np.ones((4, 4), np.uint16), False),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        assert digest_of(tmp_path / f"{name}.tif").endswith(READ_ANEW) == anew
