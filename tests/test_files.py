"""Files that are whole or not there."""

import pytest

from sparse_ist_tf.files import cache_home, remove_leftovers, replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_what_stood_there_survives_a_failure(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_go(tmp_path):
    keep = tmp_path / "file.tmpl"
    keep.write_text("kept")
    (tmp_path / "b").mkdir()
    with replacing(tmp_path / "b" / "head.keras") as temporary:
        temporary.write_text("half")
        copy = temporary.with_name(".head.123.tmp.keras")
        copy.write_text("half")
    remove_leftovers(tmp_path)
    assert not copy.exists()
    assert (tmp_path / "b" / "head.keras").exists()
    assert keep.exists()


def test_processes_with_the_same_id_do_not_share_a_neighbour(tmp_path):
    """As those of two containers that share a disk."""
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"
    assert (tmp_path / "file").read_text() == "one"


def test_the_cache_is_where_the_user_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "sparse_ist_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home" / ".cache" / "sparse_ist_tf"
