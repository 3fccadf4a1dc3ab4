"""Files of torch.save, old and new, are read without torch; bad ones end in one line."""

import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_ist_tf.checkpoints.torch_files import read_torch
from sparse_ist_tf.errors import RequestError
from tests.fixtures import encoders as fixture

RNG = np.random.default_rng(0)
TENSORS = {
    "norm.weight": RNG.standard_normal(5).astype(np.float32),
    "patch_embed.proj.weight": RNG.standard_normal((4, 3, 2, 2)).astype(np.float32),
    "half": RNG.standard_normal((2, 3)).astype(np.float16),
    "count": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("member", ["", "model", "teacher", "state_dict"])
def test_tensors_are_read_as_they_are(write_torch, tmp_path, legacy, member):
    path = write_torch(TENSORS, member, legacy=legacy, path=tmp_path / "w.pth")
    tensors, found = read_torch(path)
    assert found == member
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_calls_is_refused_and_nothing_runs(write_torch, tmp_path, legacy):
    target = tmp_path / "made"
    command = f"touch {target}".encode()
    call = b"X\x05\x00\x00\x00extracposix\nsystem\n(X" + struct.pack("<I", len(command)) + command
    path = write_torch(TENSORS, "model", call + b"tR", legacy=legacy, path=tmp_path / "w.pth")
    with pytest.raises(RequestError, match=r"w\.pth: refused: the pickle names posix\.system"):
        read_torch(path)
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncation_is_an_error(write_torch, tmp_path, legacy):
    content = write_torch(TENSORS, legacy=legacy, path=tmp_path / "w.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    for length in sorted({*range(0, len(content), 13), len(content) - 1}):
        cut.write_bytes(content[:length])
        with pytest.raises(RequestError, match=r"cut\.pth: ") as caught:
            read_torch(cut)
        assert len(str(caught.value).splitlines()) == 1


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_are_an_error_or_other_numbers(write_torch, tmp_path, legacy, data):
    path = tmp_path / "w.pth"
    content = bytearray(write_torch(TENSORS, legacy=legacy, path=path).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        told = " ".join(read_torch(path)[0])
    except RequestError as error:
        told = str(error)
    assert len(told.splitlines()) <= 1


@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_that_breaks_lines_is_damage(write_torch, tmp_path, legacy):
    tensors = {"norm\nweight": np.ones(3, np.float32)}
    path = write_torch(tensors, legacy=legacy, path=tmp_path / "w.pth")
    with pytest.raises(RequestError, match=r"w\.pth: damaged: a tensor's name is 'norm\\nweight'"):
        read_torch(path)


def test_zip_bombs_and_other_zips_are_refused(write_torch, tmp_path):
    path = tmp_path / "w.pth"
    write_torch({"a": np.zeros(10**6, np.float32)}, path=path, compress=True)
    assert os.path.getsize(path) < 10**5
    with pytest.raises(RequestError, match="compressed members"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(RequestError, match=r"without torch\.save's data\.pkl"):
        read_torch(path)


def test_members_that_overlap_are_refused(write_torch, tmp_path):
    """A zip whose directory names the same bytes many times unfolds without compression."""
    path = write_torch({"a": np.zeros(1000, np.float32)}, path=tmp_path / "w.pth")
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    count, _, size, start = struct.unpack("<HHII", content[end + 8 : end + 20])
    directory = content[start : start + size]
    at = directory.index(b"archive/data/0") - 46
    record = directory[at : at + 60]
    more = b"".join(record[:-1] + bytes([letter]) for letter in b"bcdefghijk")
    numbers = struct.pack("<HHII", count + 10, count + 10, size + len(more), start)
    path.write_bytes(
        content[:start] + directory + more + content[end : end + 8] + numbers + b"\0\0"
    )
    assert len(zipfile.ZipFile(path).namelist()) == count + 10
    with pytest.raises(RequestError, match="claim more bytes"):
        read_torch(path)


@pytest.mark.parametrize(("count", "refused"), [(3, False), (20, True)])
def test_tensors_may_share_their_numbers_but_not_without_end(write_torch, tmp_path, count, refused):
    array = np.arange(1000, dtype=np.float32)
    names = [f"a{i:02}" for i in range(count)]
    path = write_torch(dict.fromkeys(names, array), path=tmp_path / "w.pth")
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("archive/data.pkl")
    for key in map(str, range(1, count)):
        name = struct.pack("<I", len(key)) + key.encode()
        assert b"X" + name in pickled
        pickled = pickled.replace(b"X" + name, b"X\x01\x00\x00\x000")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", array.tobytes())
    if refused:
        with pytest.raises(RequestError, match="share their numbers too often"):
            read_torch(path)
    else:
        for tensor in read_torch(path)[0].values():
            np.testing.assert_array_equal(tensor, array)


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK", b"\x80\x02", b"hello", b"\x80\x02" + b"." * 9]
)
def test_other_files_are_told(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(RequestError, match=r"w\.pth: "):
        read_torch(tmp_path / "w.pth")


def nested(path, content):
    """A file of torch's zip format: dictionaries, and tensors under their names."""
    arrays = []

    def pickled(value):
        if isinstance(value, dict):
            items = b"".join(fixture._text(k) + pickled(v) for k, v in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, bytes):
            return value
        arrays.append(np.ascontiguousarray(value))
        return fixture._tensor(str(len(arrays) - 1), arrays[-1])

    data = b"\x80\x02" + pickled(content) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for i, array in enumerate(arrays):
            archive.writestr(f"archive/data/{i}", array.tobytes())
    return path


@pytest.mark.parametrize(
    ("content", "member"),
    [
        ({"state_dict": TENSORS, "state_dict_ema": {}}, "state_dict"),
        ({"state_dict_ema": TENSORS, "epoch": np.array(3)}, "state_dict_ema"),
        ({"model": {"state_dict": TENSORS}, "optimizer": {"state": TENSORS}}, "model/state_dict"),
        ({"epoch": np.array(3), "mean": np.ones(3, np.float32), "model": TENSORS}, "model"),
        ({"encoder": {}, "target_encoder": TENSORS, "opt": np.array(1)}, "target_encoder"),
        ({"encoder": TENSORS, "decoder": TENSORS}, "encoder"),
        ({"my_net": TENSORS, "optim": TENSORS}, "my_net"),
        (
            {"callbacks": {"Model{'a': 1}": {"best": np.array(1.0)}}, "state_dict": TENSORS},
            "state_dict",
        ),
        (TENSORS | {"step": np.array(3), "args": {"lr": b"K\x01"}}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_state_dict_is_found_in_dictionaries(tmp_path, content, member):
    tensors, found = read_torch(nested(tmp_path / "w.ckpt", content))
    assert found == member
    assert tensors.keys() >= TENSORS.keys()


def test_several_state_dicts_of_unknown_names_are_refused(tmp_path):
    path = nested(tmp_path / "w.ckpt", {"left": TENSORS, "right": TENSORS})
    with pytest.raises(RequestError, match=r"several state dicts \(left, right\)"):
        read_torch(path)


def test_what_trainers_keep_beside_weights_is_read_as_nothing(tmp_path):
    scalar = pickle.dumps(np.float64(0.5), protocol=2)[2:-1]
    place = pickle.dumps(pathlib.PurePosixPath("a"), protocol=2)[2:-1]
    place = place.replace(b"PurePosixPath", b"PosixPath")
    content = {"best": scalar, "out": place, "device": b"ctorch\ndevice\nX\x03\0\0\0cpu\x85R"}
    tensors, found = read_torch(nested(tmp_path / "w.ckpt", content | {"model": TENSORS}))
    assert (found, tensors.keys()) == ("model", TENSORS.keys())


def test_a_file_without_a_state_dict_is_told(write_torch, tmp_path):
    path = write_torch({}, path=tmp_path / "w.pth")
    with pytest.raises(RequestError, match="no state dict, neither whole nor under model"):
        read_torch(path)
