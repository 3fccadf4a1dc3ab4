"""Files of weights: good ones are read, bad ones end in one line, and nothing in them is run."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
import zlib
from dataclasses import asdict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_ist_tf.checkpoints.conversion import to_timm
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.writing import export_to_keras, save_encoder
from sparse_ist_tf.encoder.bundle import stored_arrays
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RequestError

MODEL = create_encoder("vit_pico", depth=1)
OURS, CONFIG = stored_arrays(MODEL), asdict(MODEL.spec)
TIMM = to_timm(MODEL.spec, OURS)[0]
KINDS = ("ours.safetensors", "timm.safetensors", "flax.npz", "e.keras", "e.weights.h5", "e.pth")


def flax_tensors():
    """The weights in big_vision's names and layouts."""
    width, heads = CONFIG["width"], CONFIG["num_heads"]
    out = {
        "params/embedding/kernel": OURS["embed/kernel"].reshape(8, 8, 3, width),
        "params/embedding/bias": OURS["embed/bias"],
        "params/cls": OURS["cls_token"],
        "params/pos_embedding": TIMM["pos_embed"],
        "params/Transformer/encoder_norm/scale": OURS["norm/scale"],
        "params/Transformer/encoder_norm/bias": OURS["norm/offset"],
    }
    block = "params/Transformer/encoderblock_0"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for i, part in enumerate(("query", "key", "value")):
        kernel = np.split(OURS["block_0/qkv/kernel"], 3, axis=1)[i]
        bias = np.split(OURS["block_0/qkv/bias"], 3)[i]
        out[f"{attention}/{part}/kernel"] = kernel.reshape(width, heads, -1)
        out[f"{attention}/{part}/bias"] = bias.reshape(heads, -1)
    out[f"{attention}/out/kernel"] = OURS["block_0/proj/kernel"].reshape(heads, -1, width)
    out[f"{attention}/out/bias"] = OURS["block_0/proj/bias"]
    for i in (0, 1):
        for kind in ("kernel", "bias"):
            out[f"{block}/MlpBlock_0/Dense_{i}/{kind}"] = OURS[f"block_0/fc{i + 1}/{kind}"]
        out[f"{block}/LayerNorm_{i}/scale"] = OURS[f"block_0/norm{i + 1}/scale"]
        out[f"{block}/LayerNorm_{i}/bias"] = OURS[f"block_0/norm{i + 1}/offset"]
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_torch):
    """A folder with the same weights in every kind of file."""
    folder = tmp_path_factory.mktemp("weights")
    save_encoder(folder / "ours.safetensors", MODEL, dtype="float32")
    save_file(TIMM, folder / "timm.safetensors")
    np.savez(folder / "flax.npz", **flax_tensors())
    export_to_keras(load_encoder(str(folder / "ours.safetensors")), folder / "e.keras")
    MODEL.save_weights(folder / "e.weights.h5")
    write_torch(TIMM, "model", path=folder / "e.pth")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_encoder(folder, kind):
    given = "" if kind.startswith("ours") or kind == "e.keras" else "?num_heads=3"
    encoder = load_encoder(f"{folder / kind}{given}", activation="quick_gelu")
    for key, value in stored_arrays(encoder.model).items():
        np.testing.assert_array_equal(value, OURS[key], err_msg=key)
    assert asdict(encoder.model.spec) == CONFIG


def one_line(path, told="encoder.weights="):
    """The error of a path, which must be one line of moderate length that names the path."""
    with pytest.raises(RequestError, match=told) as caught:
        load_encoder(f"{path}?num_heads=3")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 1500
    assert str(path) in text
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_end_in_one_line(folder, tmp_path, kind):
    content = (folder / kind).read_bytes()
    path = tmp_path / kind
    for share in (0.0, 0.0001, 0.01, 0.3, 0.7, 0.99, 0.99999):
        path.write_bytes(content[: int(share * len(content))])
        one_line(path, "damaged|cut short|neither of torch's|no Keras|torch.save")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_end_in_one_line_or_in_other_numbers(folder, tmp_path, kind):
    content = (folder / kind).read_bytes()
    path = tmp_path / kind
    rng = np.random.default_rng(0)
    # Where a kind keeps its structure: at its start or end, and anywhere.
    spans = [(0, 3000), (len(content) - 3000, len(content)), (0, len(content))]
    for trial in range(24):
        bad = bytearray(content)
        for _ in range(1 + trial % 4):
            bad[rng.integers(*spans[trial % 3])] = rng.integers(256)
        path.write_bytes(bad)
        try:
            told = load_encoder(f"{path}?num_heads=3").describe()
        except RequestError as error:
            told = str(error)
            assert len(told.splitlines()) == 1
        assert told


@pytest.mark.parametrize("name", ["e.safetensors", "e.npz", "e.keras", "e.weights.h5", "e.pth"])
def test_files_of_something_else(tmp_path, name):
    path = tmp_path / name
    for content in (b"", b"\n", b"#!/bin/sh\ntouch made\n", b"\x00" * 100, os.urandom(1000)):
        path.write_bytes(content)
        one_line(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    one_line(path)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.npz", "pytorch_model.bin"])
def test_a_pickle_that_calls_is_one_line_and_is_not_run(tmp_path, name, write_torch):
    target = tmp_path / "made"
    command = f"touch {target}".encode()
    call = b"X\x05\x00\x00\x00extracposix\nsystem\n(X" + struct.pack("<I", len(command)) + command
    path = tmp_path / name
    if name == "w.npz":

        class Call:
            def __reduce__(self):
                return os.system, (command.decode(),)

        np.savez(path, **{"embedding/kernel": np.array([Call()], object)})
        one_line(path, "not plain numbers")
    else:
        write_torch(TIMM, "model", call + b"tR", path=path)
        text = one_line(path, r"refused: the pickle names posix\.system")
        path.write_bytes(pickle.dumps({"model": print}, protocol=4))
        one_line(path, r"neither of torch.save's two formats")
        assert "posix" in text
    assert not target.exists()


def zip_of_zeros(path, member, header, blocks):
    """A zip file whose only member unfolds to a header and so many blocks of 32 MiB of zeros."""
    packer = zlib.compressobj(wbits=-15)
    first = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**25)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = first + block * blocks + packer.flush()
    name, size = member.encode(), len(header) + blocks * 2**25
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(data), size, len(name), 0)
    local = b"PK\x03\x04" + common + name
    entry = b"PK\x01\x02\x14\x00" + common + bytes(14) + name
    sizes = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local) + len(data), 0)
    path.write_bytes(local + data + entry + b"PK\x05\x06" + sizes)


@pytest.mark.parametrize(
    ("name", "member"),
    [("bomb.npz", "embedding/kernel.npy"), ("bomb.keras", "model.weights.h5")],
)
def test_zip_bombs_are_refused_before_they_unfold(tmp_path, name, member):
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (96 * 2**23,)}
    np.lib.format.write_array_header_1_0(header, shape)
    path = tmp_path / name
    zip_of_zeros(path, member, header.getvalue(), 96)
    assert os.path.getsize(path) < 2**22
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        assert file.read(2**25)[-1] == 0  # it does unfold
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_line(path, r"\d+ bytes that unfold to 3\d{9}: no weights do that")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"depth": 10**9}, "depth=1000000000"),
        ({"depth": 3}, "missing: block_1/norm1/scale.* and"),
        ({"depth": 0}, "depth=0"),
        ({"width": 99_999}, "misshapen: .*"),
        ({"width": "96"}, "width='96'"),
        ({"image_size": 10**6}, "image_size=1000000"),
        ({"image_size": 16384, "patch_size": 8}, "patches of 8 px: more than"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"num_heads": 5}, "width=96.*num_heads=5"),
        ({"colour": "red"}, "colour"),
        ({"extra_tokens": 2}, "missing: extra_tokens"),
        ({"positions": "learned"}, "missing: position_table"),
    ],
    ids=str,
)
def test_an_impossible_architecture_in_a_file_is_one_line(tmp_path, changes, told):
    path = tmp_path / "e.safetensors"
    metadata = {"format": "sparse_ist_tf.encoder/1", "config": json.dumps(CONFIG | changes)}
    metadata |= {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    save_file(OURS, path, metadata)
    with pytest.raises(RequestError, match=told) as caught:
        load_encoder(str(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "{"},
        {"config": "[1]"},
        {"config": "[" * 100_000},
        {"config": "{}"},
        {"mean": "0.5"},
        {"mean": '["red", 1, 1]'},
        {"std": "[0, 0, 0]"},
        {"std": "[NaN, 1, 1]"},
    ],
    ids=lambda c: str(c)[:30],
)
def test_damaged_metadata_is_one_line(tmp_path, changes):
    metadata = {"format": "sparse_ist_tf.encoder/1", "config": json.dumps(CONFIG)}
    metadata |= {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    path = tmp_path / "e.safetensors"
    save_file(OURS, path, metadata | changes)
    one_line(path)


def test_bad_tensors_of_our_own_files_are_listed(tmp_path):
    metadata = {"format": "sparse_ist_tf.encoder/1", "config": json.dumps(CONFIG)}
    metadata |= {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    path = tmp_path / "e.safetensors"
    bad = {k: v for k, v in OURS.items() if k != "norm/scale"}
    bad |= {"head/kernel": np.zeros((2, 2), np.float32), "cls_token": np.zeros(3, np.float32)}
    save_file(bad, path, metadata)
    text = one_line(path)
    assert "missing: norm/scale; unexpected: head/kernel" in text
    assert "misshapen: cls_token is (3,), not (1, 1, 96)" in text
    assert text.endswith("(the nearest known architecture is vit_pico)")
    for value in (np.nan, np.inf):
        save_file(OURS | {"norm/scale": np.full(96, value, np.float32)}, path, metadata)
        one_line(path, "norm/scale is not finite")


def test_bfloat16_and_float64_tensors_are_read(tmp_path):
    rounded = {k: v.astype(ml_dtypes.bfloat16) for k, v in TIMM.items()}
    save_file(rounded, tmp_path / "b.safetensors")
    np.savez(tmp_path / "b.npz", **rounded)
    np.savez(tmp_path / "d.npz", **{k: v.astype(np.float64) for k, v in TIMM.items()})
    for name in ("b.safetensors", "b.npz", "d.npz"):
        encoder = load_encoder(f"{tmp_path / name}?num_heads=3", activation="quick_gelu")
        value = stored_arrays(encoder.model)["block_0/fc1/kernel"]
        wanted = OURS["block_0/fc1/kernel"]
        if name != "d.npz":
            wanted = wanted.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(value, wanted)


def test_shards_are_joined_and_stay_in_their_folder(tmp_path):
    names = list(TIMM)
    half = len(names) // 2
    shards = {"m-1-of-2.safetensors": names[:half], "m-2-of-2.safetensors": names[half:]}
    weight_map = {}
    for shard, members in shards.items():
        save_file({name: TIMM[name] for name in members}, tmp_path / shard)
        weight_map |= dict.fromkeys(members, shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    config = {"model_type": "vit", "num_attention_heads": 3, "hidden_act": "quick_gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    encoder = load_encoder(str(tmp_path))
    assert encoder.model.spec.num_heads == 3
    np.testing.assert_array_equal(encoder.model.get_weights()[0], MODEL.get_weights()[0])
    for bad in ({"a": "../m-1-of-2.safetensors"}, {"a": "/etc/passwd"}, {"a": "gone"}, [], 3):
        index.write_text(json.dumps({"weight_map": bad}))
        one_line(tmp_path)


def test_paths_that_lead_nowhere(tmp_path):
    one_line(tmp_path / "none.safetensors", "no such file")
    one_line(tmp_path, r"a folder without model\.safetensors")
    (tmp_path / "e.onnx").write_bytes(b"x")
    one_line(tmp_path / "e.onnx", r"must end with one of \.safetensors")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "neither a model_type nor an architecture"),
        ('{"model_type": "bert"}', "model_type='bert': must be one of vit"),
        ('{"model_type": "vit", "hidden_act": "relu"}', "activation 'relu'"),
        ('{"model_type": "vit", "num_attention_heads": 7}', "num_heads=7"),
        ('{"model_type": "vit", "num_attention_heads": "7"}', "num_heads='7'"),
        ('{"model_type": "vit", "layer_norm_eps": [1]}', r"epsilon=\[1\]"),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": 3}', "not as transformers"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_configuration_beside_weights_is_one_line(tmp_path, config, told):
    save_file(TIMM, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RequestError, match=told) as caught:
        load_encoder(f"{tmp_path}{'' if 'num_attention_heads' in config else '?num_heads=3'}")
    assert len(str(caught.value).splitlines()) == 1


def whole(tmp_path, name, write_torch, tensors=TIMM):
    """Weights in a file of this name."""
    path = tmp_path / name
    if ".safetensors" in name:
        save_file(tensors, path)
    else:
        write_torch(tensors, path=path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "last.ckpt",
        "model.fp16.safetensors",
        "pytorch_model.fp16.bin",
        "weights.pt",
        "checkpoint.pth",
        "teacher.safetensors",
    ],
)
def test_a_file_of_any_usual_name_is_read_and_found_in_its_folder(tmp_path, name, write_torch):
    half = {k: v.astype(np.float16) for k, v in TIMM.items()}
    path = whole(tmp_path, name, write_torch, half)
    whole(tmp_path, "optimizer.pt", write_torch)
    (tmp_path / "training_args.bin").write_bytes(b"x")
    for place in (path, tmp_path):
        encoder = load_encoder(f"{place}?num_heads=3", activation="quick_gelu")
        value = stored_arrays(encoder.model)["block_0/fc1/kernel"]
        wanted = OURS["block_0/fc1/kernel"].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(value, wanted)


def test_a_folder_with_several_files_asks_for_one(tmp_path, write_torch):
    for name in ("a.pth", "b.safetensors"):
        whole(tmp_path, name, write_torch)
    one_line(tmp_path, r"has a\.pth, b\.safetensors: name one of them")


def test_a_folder_of_adapters_alone_says_so(tmp_path):
    save_file(
        {"a.lora_A.weight": np.ones((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors"
    )
    one_line(tmp_path, r"adapter_model\.safetensors alone is LoRA that isn't merged")


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_shards_of_either_kind_are_joined(tmp_path, write_torch, suffix):
    names, weight_map = list(TIMM), {}
    for i, members in enumerate((names[:9], names[9:])):
        shard = f"model-0000{i + 1}-of-00002.{suffix}"
        whole(tmp_path, shard, write_torch, {name: TIMM[name] for name in members})
        weight_map |= dict.fromkeys(members, shard)
    stem = "pytorch_model.bin" if suffix == "bin" else "model.fp16.safetensors"
    index = tmp_path / f"{stem}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    for place in (index, tmp_path):
        encoder = load_encoder(f"{place}?num_heads=3", activation="quick_gelu")
        np.testing.assert_array_equal(
            stored_arrays(encoder.model)["norm/scale"], OURS["norm/scale"]
        )
    (tmp_path / f"model-00002-of-00002.{suffix}").unlink()
    one_line(tmp_path, rf"names model-00002-of-00002\.{suffix}, which isn't there")


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
def test_integers_are_no_weights_in_any_file(tmp_path, write_torch, suffix):
    path = tmp_path / f"w.{suffix}"
    tensors = TIMM | {"blocks.0.mlp.fc1.weight": np.ones((288, 96), np.int8)}
    if suffix == "npz":
        np.savez(path, **tensors)
    else:
        whole(tmp_path, path.name, write_torch, tensors)
    one_line(path, r"blocks\.0\.mlp\.fc1\.weight is int8, quantized")


def test_integers_are_no_weights_in_our_own_files(tmp_path):
    metadata = {"format": "sparse_ist_tf.encoder/1", "config": json.dumps(CONFIG)}
    metadata |= {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    spoiled = OURS | {"norm/scale": np.ones(96, np.uint8)}
    save_file(spoiled, tmp_path / "e.safetensors", metadata)
    one_line(tmp_path / "e.safetensors", "norm/scale is uint8, quantized")


TRANSFORMERS = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
}


@pytest.mark.parametrize(
    ("kind", "mean"),
    [("vit", 0.5), ("deit", 0.485), ("vit_mae", 0.485), ("dinov2", 0.485), ("", 0.5)],
)
def test_pixels_of_transformers_without_a_preprocessor(tmp_path, kind, mean):
    tensors = {}
    for name, value in TIMM.items():
        for theirs, called in TRANSFORMERS.items():
            name = name.replace(theirs, called)
        tensors[name] = value
    save_file(tensors, tmp_path / "model.safetensors")
    if kind:
        config = {"model_type": kind, "num_attention_heads": 3, "hidden_act": "gelu"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(f"{tmp_path}?num_heads=3")
    assert encoder.mean[0] == mean
    said = "0.5" if mean == 0.5 else "ImageNet's"
    assert f"mean and std are {said}: none are stated" in encoder.notes
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1], "image_std": [0.2]}')
    if kind:
        assert load_encoder(f"{tmp_path}?num_heads=3").mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("kind", ["swin", "convnext", "beit", "mobilevit"])
def test_another_model_of_transformers_is_called_by_its_name(tmp_path, kind):
    save_file(TIMM, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    one_line(tmp_path, f"model_type='{kind}'")
