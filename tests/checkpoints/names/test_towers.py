"""An encoder is found below any prefix; extras are left out and said, all else is refused."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_ist_tf.checkpoints.conversion import to_timm
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.names.towers import find_tower
from sparse_ist_tf.encoder.bundle import stored_arrays
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RequestError

MODEL = create_encoder("vit_pico", depth=2, positions="learned")
OURS = stored_arrays(MODEL)
TIMM = to_timm(MODEL.spec, OURS)[0]
ONE, WIDE = np.ones(1, np.float32), np.ones((3, 96), np.float32)


def transformers_names():
    """The same weights as transformers calls them."""
    out = {}
    for name, value in TIMM.items():
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = name.replace("cls_token", "embeddings.cls_token")
        name = name.replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("blocks.", "encoder.layer.").replace(".norm1.", ".layernorm_before.")
        name = name.replace(".norm2.", ".layernorm_after.").replace("attn.proj", "ATT.output.dense")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        name = name.replace("ATT", "attention")
        name = f"layernorm{name[4:]}" if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            for part, one in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                out[name.replace("attn.qkv", f"attention.attention.{part}")] = one
        else:
            out[name] = value
    return out


def below(prefix, tensors):
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def load(path, tensors):
    """The encoder of a file of these tensors, which must hold the model's numbers."""
    save_file(tensors, path)
    encoder = load_encoder(f"{path}?num_heads=3", activation="quick_gelu")
    for key, value in stored_arrays(encoder.model).items():
        np.testing.assert_array_equal(value, OURS[key], err_msg=key)
    return encoder


def refused(path, tensors, told):
    save_file(tensors, path)
    with pytest.raises(RequestError, match=told) as caught:
        load_encoder(f"{path}?num_heads=3")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1500
    return str(caught.value)


PREFIXES = ["model.", "net.", "encoder.", "base_encoder.", "teacher.", "module.model.", "backbone."]
PREFIXES += ["student.backbone.", "_orig_mod.", "module._orig_mod.", "a.b.c.", "visual.trunk."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_common_prefix_is_found_and_said(tmp_path, prefix):
    notes = load(tmp_path / "w.safetensors", below(prefix, TIMM)).notes
    assert f"the encoder's names begin with {prefix}" in notes


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.vit.", "base_model.model.dinov2."])
def test_transformers_names_below_a_prefix(tmp_path, prefix):
    notes = load(tmp_path / "w.safetensors", below(prefix, transformers_names())).notes
    assert sum(note.endswith(f"begin with {prefix}") for note in notes) == bool(prefix)


EXTRAS = [
    ("fc.weight", WIDE, "fc"),
    ("fc.bias", ONE, "fc"),
    ("head.weight", WIDE, "the classifier"),
    ("heads.0.weight", WIDE, "heads"),
    ("classifier.bias", ONE, "the classifier"),
    ("dino_head.mlp.0.weight", WIDE, "dino_head"),
    ("ibot_head.last_layer.weight_g", WIDE, "ibot_head"),
    ("projector.0.weight", WIDE, "projector"),
    ("projector.1.running_mean", WIDE, "projector"),
    ("predictor.weight", WIDE, "predictor"),
    ("decoder.layers.0.weight", WIDE, "the decoder"),
    ("decoder_embed.weight", WIDE, "the decoder"),
    ("mask_decoder.weight", WIDE, "the decoder"),
    ("dino_loss.center", WIDE, "dino_loss"),
    ("queue", WIDE, "queue"),
    ("queue_ptr", ONE, "queue_ptr"),
    ("step", np.array(3), "step"),
    ("epoch", np.array([3]), "epoch"),
    ("global_step", np.array(3.0, np.float32), "global_step"),
    ("bn.num_batches_tracked", np.array(3), "num_batches_tracked"),
    ("blocks.0.total_ops", np.array(3), "total_ops"),
    ("optimizer.state.0.exp_avg", WIDE, "optimizer"),
    ("text.token_embedding.weight", WIDE, "text"),
    ("logit_scale", np.array(3.0, np.float32), "logit_scale"),
]


@pytest.mark.parametrize("place", ["", "backbone."])
@pytest.mark.parametrize(("name", "value", "part"), EXTRAS, ids=[name for name, *_ in EXTRAS])
def test_known_extras_are_left_out_and_said(name, value, part, place):
    for beside in {"", place}:
        names = {n: v.size for n, v in below(place, TIMM).items()}
        tower = find_tower(names | {f"{beside}{name}": value.size})
        assert list(tower.names.values()) == list(TIMM)
        assert not tower.unknown
        assert f"left out: 1 weight of {part}" in tower.notes


def test_extras_of_all_kinds_at_once(tmp_path):
    more = {name: value for name, value, _ in EXTRAS}
    encoder = load(tmp_path / "w.safetensors", below("module.model.", TIMM | more))
    assert len([note for note in encoder.notes if note.startswith("left out")]) > 10


@pytest.mark.parametrize(
    ("kept", "other"),
    [
        ("teacher.backbone.", "student.backbone."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("encoder_q.", "encoder_k."),
        ("target_encoder.", "encoder."),
        ("model_ema.", "model."),
        ("backbone.", "momentum_backbone."),
        ("ema.", ""),
        ("", "momentum."),
    ],
)
def test_of_several_encoders_the_one_that_is_kept_is_taken(tmp_path, kept, other):
    others = {name: value + 1 for name, value in TIMM.items()}
    notes = load(tmp_path / "w.safetensors", below(other, others) | below(kept, TIMM)).notes
    called = other.removeprefix("module.").rstrip(".") or "the other encoder"
    assert f"left out: {len(TIMM)} weights of {called}" in notes


def test_encoders_that_nothing_tells_apart_are_refused(tmp_path):
    both = below("left.", TIMM) | below("right.", TIMM)
    refused(tmp_path / "w.safetensors", both, r"has 2 encoders \(left\., right\.\): must have one")


def test_what_is_not_known_is_refused_with_what_was_found_and_expected(tmp_path):
    path = tmp_path / "w.safetensors"
    refused(path, below("model.", TIMM) | {"model.gate.weight": WIDE}, r"unexpected: model\.gate")
    refused(path, below("model.", TIMM) | {"gate.weight": WIDE}, r"unexpected: gate\.weight")
    refused(path, below("model.", TIMM) | {"norm.weight": WIDE}, r"unexpected: norm\.weight")
    without = {n: v for n, v in below("model.", TIMM).items() if "norm1.bias" not in n}
    refused(path, without, r"missing: blocks\.0\.norm1\.bias, blocks\.1\.norm1\.bias")
    told = r"patch_embed\.proj\.weight.*found: a\.weight, b\.weight"
    refused(path, {"a.weight": WIDE, "b.weight": WIDE}, told)


@pytest.mark.parametrize(
    "names",
    [
        ("blocks.0.attn.qkv.lora_A.default.weight", "blocks.0.attn.qkv.lora_B.default.weight"),
        ("base_model.model.blocks.0.attn.qkv.base_layer.weight",),
        ("blocks.0.attn.qkv.lora_magnitude_vector",),
        ("blocks.0.attn.qkv.lora.down.weight",),
        ("blocks.0.attn.qkv.linear_a_q.weight",),
        ("blocks.0.mlp.fc1.w_lora_a",),
    ],
)
def test_adapters_that_are_not_merged_are_refused_by_name(tmp_path, names):
    tensors = dict.fromkeys(names, WIDE)
    for more in (TIMM, {}):
        text = refused(
            tmp_path / "w.safetensors", more | tensors, "LoRA weights that aren't merged"
        )
        assert names[0] in text


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc1.weight", "patch_embed.proj.weight"])
def test_integers_are_no_weights(tmp_path, dtype, name):
    tensors = TIMM | {name: (100 * TIMM[name]).astype(dtype)}
    refused(tmp_path / "w.safetensors", tensors, rf"{name} is {np.dtype(dtype)}, quantized")


def test_packed_weights_are_called_quantized(tmp_path):
    tensors = TIMM | {"blocks.0.mlp.fc1.weight.absmax": WIDE}
    refused(tmp_path / "w.safetensors", tensors, r"is quantized \(blocks\.0\.mlp\.fc1\.weight\.abs")


def test_wrappers_inside_of_names_and_chunks_of_blocks(tmp_path):
    wrapped = {n.replace("blocks.1.", "blocks.1._orig_mod."): v for n, v in TIMM.items()}
    load(tmp_path / "w.safetensors", wrapped)
    chunks = {n.replace("blocks.1.", "blocks.0.1."): v for n, v in TIMM.items()}
    chunks = {n.replace("blocks.0.norm", "blocks.0.0.norm"): v for n, v in chunks.items()}
    chunks = {n.replace("blocks.0.attn", "blocks.0.0.attn"): v for n, v in chunks.items()}
    chunks = {n.replace("blocks.0.mlp", "blocks.0.0.mlp"): v for n, v in chunks.items()}
    load(tmp_path / "w.safetensors", below("teacher.backbone.", chunks))
