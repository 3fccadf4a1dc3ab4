"""Features equal transformers', and masks mean what they mean in its MAE."""

import numpy as np
import pytest

from sparse_ist_tf.checkpoints import conversion
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.naming import named_tensors
from sparse_ist_tf.encoder.positions import sincos_positions
from sparse_ist_tf.masks import visible_from_positions
from sparse_ist_tf.pretraining.objectives import MaskedAutoencoder

SMALL = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 200,
    "image_size": 56,
    "patch_size": 14,
}
KINDS = [
    ("ViTModel", {"add_pooling_layer": False}, {}),
    ("ViTModel", {}, {"qkv_bias": False, "layer_norm_eps": 1e-6}),
    ("ViTModel", {}, {"hidden_act": "quick_gelu"}),
    ("ViTModel", {}, {"hidden_act": "gelu_new"}),
    ("DeiTModel", {}, {}),
    ("Dinov2Model", {}, {"layerscale_value": 0.1, "mlp_ratio": 3}),
    ("Dinov2Model", {}, {"use_swiglu_ffn": True}),
    ("Dinov2WithRegistersModel", {}, {"num_register_tokens": 4}),
    ("ViTForImageClassification", {}, {"num_labels": 7}),
    ("Dinov2ForImageClassification", {}, {"num_labels": 7}),
]


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers", reason="needs transformers: the extra 'references'")


def make(transformers, randomise, kind, arguments, changes):
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**SMALL | changes)
    return randomise(model_class(config, **arguments))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_features_equal_transformers(torch, transformers, randomise, make_case, tmp_path, kind):
    model = make(transformers, randomise, *kind)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    images, _, inputs = make_case(56, 14)
    with torch.no_grad():
        out = model(torch.from_numpy(images), output_hidden_states=True)
    ours = np.asarray(encoder.model.tokens(inputs))
    if "Classification" in kind[0]:
        head = getattr(model, "classifier")  # noqa: B009
        cls = torch.from_numpy(ours[:, 0].copy())
        if kind[0].startswith("Dinov2"):
            cls = torch.cat([cls, torch.from_numpy(ours[:, 1:].mean(axis=1))], dim=1)
        with torch.no_grad():
            ours, theirs = head(cls).numpy(), out.logits.numpy()
        assert "left out: 2 weights of the classifier" in encoder.notes
    else:
        theirs = out.last_hidden_state.numpy()
        np.testing.assert_array_equal(ours[:, 0], np.asarray(encoder.model(inputs)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs).max() > 1


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
def test_masked_autoencoder_equals_ours_with_the_same_mask(
    torch, transformers, randomise, make_case, tmp_path, ratio
):
    """Token order, CLS and the polarity of the mask are those of the reference of MAE."""
    model = make(transformers, randomise, "ViTMAEModel", {}, {"mask_ratio": ratio})
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    images, places, _ = make_case(56, 14, ratio, batch=3)
    # The reference keeps the patches of the least noise, in this order.
    noise = np.ones((3, 16), np.float32)
    np.put_along_axis(noise, places, np.linspace(0, 0.5, places.shape[1])[None], axis=1)
    with torch.no_grad():
        out = model(torch.from_numpy(images), noise=torch.from_numpy(noise))
    restore = out.ids_restore.numpy()
    kept = np.argsort(restore, axis=1)[:, : places.shape[1]]
    np.testing.assert_array_equal(kept, places)
    # Theirs is 1 where a patch is removed, ours True where it is visible.
    np.testing.assert_array_equal(
        out.mask.numpy() == 0, np.asarray(visible_from_positions(places, 16))
    )
    _, _, inputs = make_case(56, 14, ratio, batch=3)
    ours = np.asarray(encoder.model.tokens(inputs))
    theirs = out.last_hidden_state.numpy()
    assert ours.shape == theirs.shape == (3, 1 + places.shape[1], 96)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder.model(inputs), theirs[:, 0], rtol=0, atol=1e-4)


def test_a_pre_trained_autoencoder_loses_its_decoder_knowingly(
    torch, transformers, randomise, make_case, tmp_path
):
    changes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    changes |= {"decoder_num_attention_heads": 2, "mask_ratio": 0.0}
    model = make(transformers, randomise, "ViTMAEForPreTraining", {}, changes)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert any("of the decoder" in note for note in encoder.notes)
    images, _, inputs = make_case(56, 14)
    noise = torch.arange(16.0).repeat(2, 1)
    with torch.no_grad():
        theirs = model.vit(torch.from_numpy(images), noise=noise).last_hidden_state.numpy()
    np.testing.assert_allclose(encoder.model.tokens(inputs), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_the_loss_of_pre_training_equals_theirs(
    torch, transformers, randomise, make_case, tmp_path, ratio
):
    """Decoder, targets and loss of the masked autoencoder, with the same weights and mask."""
    changes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "layer_norm_eps": 1e-6}
    changes |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 128}
    changes |= {"mask_ratio": ratio, "norm_pix_loss": True}
    theirs = make(transformers, randomise, "ViTMAEForPreTraining", {}, changes)
    table = np.pad(sincos_positions(4, 32), [(1, 0), (0, 0)])[None]
    theirs.decoder.decoder_pos_embed.data = torch.from_numpy(table)
    theirs.save_pretrained(tmp_path)
    ours = MaskedAutoencoder(load_encoder(str(tmp_path)).model, width=32, depth=2, num_heads=2)
    _give_decoder(ours, {k: v.numpy() for k, v in theirs.state_dict().items()})
    images, places, inputs = make_case(56, 14, ratio, batch=3)
    noise = np.ones((3, 16), np.float32)
    np.put_along_axis(noise, places, np.linspace(0, 0.4, places.shape[1])[None], axis=1)
    with torch.no_grad():
        out = theirs(torch.from_numpy(images), noise=torch.from_numpy(noise))
    whole = make_case(56, 14, 0.0, batch=3)[2]["patches"]
    loss, _ = ours.loss_of(inputs["patches"], places, None, whole)
    np.testing.assert_allclose(ours(inputs), out.logits.numpy(), rtol=0, atol=1e-4)
    assert float(loss) == pytest.approx(float(out.loss), rel=1e-5)


def _give_decoder(model, state):
    """Puts transformers' weights into our decoder."""
    prefix = "decoder.decoder_"
    for layer, name in ((model.embed, "embed"), (model.predict_pixels, "pred")):
        layer.kernel.assign(state[f"{prefix}{name}.weight"].T)
        layer.bias.assign(state[f"{prefix}{name}.bias"])
    model.norm.scale.assign(state[f"{prefix}norm.weight"])
    model.norm.offset.assign(state[f"{prefix}norm.bias"])
    model.mask_token.assign(state["decoder.mask_token"])
    named = named_tensors(
        {
            k.replace(f"{prefix}layers.", "encoder.layer."): v
            for k, v in state.items()
            if k.startswith(f"{prefix}layers.")
        }
    )
    for i, block in enumerate(model.blocks):
        values = conversion._block(conversion._Taken(named), f"blocks.{i}", 32, 128, 128)
        assert len(values) == len(block.weights)
        for path, value in values.items():
            layer, kind = path.split("/")
            getattr(getattr(block, layer), kind).assign(value)


def test_preprocessing_of_the_processor_is_read(torch, transformers, randomise, tmp_path):
    make(transformers, randomise, "ViTModel", {}, {}).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        size={"height": 56, "width": 56}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.mean == (0.1, 0.2, 0.3)
    assert encoder.std == (0.4, 0.5, 0.6)
    assert encoder.preprocessing.crop_fraction == 1.0
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, resample=3
    )
    processor.save_pretrained(tmp_path)
    found = load_encoder(str(tmp_path)).preprocessing
    assert (found.crop_fraction, found.interpolation) == (0.875, "bicubic")


@pytest.mark.large
@pytest.mark.parametrize("kind", ["ViTModel", "ViTMAEModel", "Dinov2Model"])
def test_features_equal_transformers_at_full_size(
    torch, transformers, randomise, make_case, tmp_path, kind
):
    """As published: ViT-B/16 at 224 px, DINOv2 with patches of 14."""
    changes = {"mask_ratio": 0.0} if kind == "ViTMAEModel" else {}
    changes |= {"patch_size": 14} if kind == "Dinov2Model" else {}
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**{"image_size": 224} | changes)
    model = randomise(model_class(config))
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    images, _, inputs = make_case(224, encoder.patch_size)
    arguments = {}
    if kind == "ViTMAEModel":
        arguments["noise"] = torch.arange(float(encoder.num_patches)).repeat(2, 1)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images), **arguments).last_hidden_state.numpy()
    np.testing.assert_allclose(encoder.model.tokens(inputs), theirs, rtol=0, atol=1e-4)
