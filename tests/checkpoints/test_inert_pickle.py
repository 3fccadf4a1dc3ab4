"""Pickles are read as data: whatever they ask for, nothing is looked up and nothing is called."""

import argparse
import collections
import io
import os
import pickle
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.checkpoints.inert_pickle import Storage, Tensor, read_pickle
from sparse_ist_tf.errors import RequestError


def read(data):
    return read_pickle(io.BytesIO(data))


def read_object(value, protocol=2):
    return read(pickle.dumps(value, protocol=protocol))


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=20,
)


@given(plain, st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_plain_data_is_what_pickle_reads(value, protocol):
    data = pickle.dumps(value, protocol=protocol)
    assert repr(read(data)) == repr(pickle.loads(data))


def test_ordered_dicts_and_namespaces_are_dictionaries():
    value = collections.OrderedDict([("b", 1), ("a", argparse.Namespace(lr=0.1, names=["x"]))])
    for protocol in range(2, 6):
        found = read_object(value, protocol)
        assert found == {"b": 1, "a": {"lr": 0.1, "names": ["x"]}}
        assert list(found) == ["b", "a"]


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    ("function", "told"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (exec, "exec"),
        (open, "open"),
        (__import__, "__import__"),
        (getattr, "getattr"),
    ],
)
def test_calls_are_refused_and_not_made(function, told, protocol, tmp_path, monkeypatch):
    target = tmp_path / "made"
    argument = {
        os.system: f"touch {target}",
        open: str(target),
        __import__: "this",
    }.get(function, f"open({str(target)!r}, 'w')")
    arguments = (argument, "w") if function is open else (argument,)
    if function is getattr:
        arguments = ("text", "upper")
    data = pickle.dumps({"model": Calls(function, *arguments)}, protocol=protocol)
    with pytest.raises(RequestError, match=rf"refused: the pickle names \S*{told}") as caught:
        read(data)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    if function is os.system:  # the pickle does what it says when pickle itself reads it
        pickle.loads(data)
        assert target.exists()


def test_objects_and_their_states_are_refused():
    with pytest.raises(RequestError, match=r"refused: the pickle names .*Random"):
        read_object(random.Random(0))
    with pytest.raises(RequestError, match="refused"):
        read_object(np.zeros(3))


def global_(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a" + bytes([16]) + value.to_bytes(16, "little", signed=True)


def storage(kind="FloatStorage", key="0", size=6):
    parts = text("storage") + global_("torch", kind) + text(key) + text("cpu") + number(size)
    return b"(" + parts + b"tQ"


def tensor(offset=0, shape=(2, 3), strides=(3, 1), stored=None):
    sizes = [b"(" + b"".join(map(number, v)) + b"t" for v in (shape, strides)]
    hooks = global_("collections", "OrderedDict") + b")R"
    parts = (stored or storage()) + number(offset) + sizes[0] + sizes[1] + b"\x89" + hooks
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + parts + b"tR"


def test_a_tensor_of_torch_is_a_view_of_its_storage():
    found = read(b"\x80\x02" + tensor(offset=1, shape=(2, 2), strides=(1, 3)) + b".")
    assert found == Tensor(Storage("0", np.dtype("<f4"), 6), 1, (2, 2), (1, 3))
    np.testing.assert_array_equal(found.of(np.arange(6, dtype="<f4")), [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 4), "strides": (4, 1)},
        {"offset": 1},
        {"offset": -1},
        {"shape": (-2, 3)},
        {"strides": (-3, 1)},
        {"strides": (3, 2)},
        {"shape": (2,)},
        {"shape": (1, 2**60), "strides": (2**60, 0)},
        {"shape": (0, 2**90), "strides": (2**90, 1)},
        {"shape": (1, 1), "strides": (2**63, 2**63)},
        {"offset": 2**62, "shape": (0,), "strides": (1,)},
        {"shape": (1,) * 9, "strides": (1,) * 9},
        {"stored": storage(kind="UntypedStorage")},
        {"stored": storage(size=-6)},
        {"stored": text("no storage")},
    ],
    ids=str,
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(changes):
    with pytest.raises(RequestError):
        read(b"\x80\x02" + tensor(**changes) + b".")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (global_("torch", "FloatStorage") + b")R.", "calls torch.FloatStorage"),
        (global_("collections", "OrderedDict") + b"(K\x01tR.", "damaged"),
        (b"])R.", "calls list"),
        (b"}}b.", None),  # an empty state for a dictionary: harmless
        (b"]}b.", "sets the state"),
        (global_("argparse", "Namespace") + b"(K\x01tR.", "calls argparse.Namespace"),
        (b"\x82\x01.", "EXT1"),
        (b"(S'a'\nios\nsystem\n.", "STRING"),
        (b"(K\x01ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\no.", "names os.system"),
        (b"\x8c\x02os\x8c\x06system\x93.", "names os.system"),
        (b"K\x01K\x02\x93.", "damaged|names 1.2"),
        (b".", "damaged"),
        (b"", "damaged"),
        (b"K\x01", "damaged"),
        (b"(((.", "damaged"),
        (b"K\x01K\x02.", "damaged"),
        (b"h\x07.", "damaged"),
        (b"tK\x01.", "damaged"),
        (b"(K\x01u.", "damaged"),
        (b"}(K\x01u.", "damaged"),
        (b"K\x01K\x02a.", "damaged"),
        (b"X\xff\xff\xff\xffabc.", "damaged"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x8b\xff\xff\xff\x7fabc.", "damaged"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_damaged_and_strange_pickles_end_in_one_line(data, told):
    if told is None:
        assert read(data) == {}
        return
    with pytest.raises(RequestError, match=told) as caught:
        read(data)
    assert len(str(caught.value).splitlines()) == 1


def test_deeply_nested_data_does_not_crash_the_interpreter():
    nested = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple...
    for data in (b"}" + nested + b"K\x01s.", b"(" + nested + b"K\x01d."):
        with pytest.raises(RequestError):
            read(data)
    pairs = global_("collections", "OrderedDict") + b"((" + nested + b"K\x01tt\x85R."
    with pytest.raises(RequestError):
        read(pairs)


def test_a_pickle_that_multiplies_its_content_is_refused():
    pairs = b"](" + b"K\x01K\x01\x86" * 1000 + b"eq\x00"  # a list of 1000 pairs, remembered
    copy = global_("collections", "OrderedDict") + b"h\x00\x85R"
    assert len(read(b"(" + pairs + copy * 500 + b"t.")) == 501
    with pytest.raises(RequestError, match="multiplies"):
        read(b"(" + pairs + copy * 2000 + b"t.")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_byte_is_an_error_or_other_data_but_never_a_crash(data):
    good = b"\x80\x02}(" + text("a") + tensor() + text("b") + b"](K\x01K\x02eu."
    place = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(place, len(good)))
    bad = (good[:place] + bytes([value]) + good[place + 1 :])[:length]
    try:
        told = repr(read(bad))
    except RequestError as error:
        told = str(error)
    assert len(told.splitlines()) == 1
