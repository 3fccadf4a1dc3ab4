"""What encoder.weights says is taken apart, and names find their loaders."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_ist_tf.checkpoints import sources
from sparse_ist_tf.checkpoints.sources import find_loader, register_encoder
from sparse_ist_tf.checkpoints.spec import parse_weights, weights_spec
from sparse_ist_tf.errors import RequestError

ABOVE = st.floats(1e-12, 1e6)


@given(st.integers(0, 64), st.just(0.0) | ABOVE, st.just(0.0) | ABOVE)
def test_a_spec_says_what_it_was_made_of(heads, scale, epsilon):
    given_ = {"num_heads": heads, "qk_scale": scale, "epsilon": epsilon}
    source, found = parse_weights(weights_spec("folder/mae.pth", **given_))
    assert source == "folder/mae.pth"
    assert found == {key: value for key, value in given_.items() if value}


def test_overrides_are_added_to_those_there():
    assert weights_spec("random:vit_pico?seed=3", epsilon=1e-5) == (
        "random:vit_pico?seed=3&epsilon=1e-05"
    )
    assert weights_spec("random:vit_pico") == "random:vit_pico"


def test_a_path_that_exists_is_the_path(tmp_path):
    path = tmp_path / "odd?num_heads=3"
    assert parse_weights(str(path)) == (str(tmp_path / "odd"), {"num_heads": 3})
    path.touch()
    assert parse_weights(str(path)) == (str(path), {})
    assert parse_weights(f"{path}?num_heads=4") == (str(path), {"num_heads": 4})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a?", "must be num_heads, qk_scale, epsilon, seed"),
        ("a?heads=3", r"\?heads=3: must be num_heads, qk_scale, epsilon, seed"),
        ("a?num_heads=3&num_heads=3", "each once"),
        ("a?num_heads", "num_heads: must be a whole number above 0"),
        ("a?num_heads=2.5", "num_heads=2.5: must be a whole number above 0"),
        ("a?epsilon=inf", "epsilon=inf: must be a number above 0"),
        ("a?qk_scale=-1", "qk_scale=-1: must be a number above 0"),
        ("a?seed=-1", "seed=-1"),
    ],
)
def test_what_is_malformed_is_named(text, told):
    with pytest.raises(RequestError, match=told):
        parse_weights(text)


def test_an_own_source_is_found(monkeypatch):
    monkeypatch.setattr(sources, "_LOADERS", dict(sources._LOADERS))

    def load(rest, *, name, dtype):
        return rest, name, dtype

    register_encoder("mine", load)
    register_encoder("mine", load)
    assert find_loader("mine:some:thing") == (load, "some:thing")
    assert "mine:..." in sources.sources()
    with pytest.raises(ValueError, match="'mine' are registered already"):
        register_encoder("mine", print)
    with pytest.raises(ValueError, match="'hf' are registered already"):
        register_encoder("hf", load)
    with pytest.raises(ValueError, match="must be an identifier"):
        register_encoder("c", load)


def test_a_file_that_is_read_twice_registers_once(monkeypatch):
    """As configuration files are."""
    monkeypatch.setattr(sources, "_LOADERS", dict(sources._LOADERS))

    def read():
        def load(rest, *, name, dtype):
            return None

        register_encoder("mine", load)
        return load

    read()
    again = read()
    assert find_loader("mine:")[0] is again


def test_paths_are_no_sources():
    for path in ("a.pth", "C:/a.pth", "/with:colon/a.pth"):
        assert find_loader(path)[1] == path
    with pytest.raises(RequestError, match=r"must be packaged:NAME, .* or a path"):
        find_loader("ftp:somewhere")


def test_nothing_heavy_is_imported():
    code = "import sys, sparse_ist_tf.checkpoints.sources, sparse_ist_tf.checkpoints.spec; "
    code += "sys.exit(bool({'tensorflow', 'keras', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
