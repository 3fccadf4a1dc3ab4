"""In a real headless Chromium the page answers as LiteRT does, to the pixels that it reads."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sparse_ist_tf.classify import Classifier
from tests.fixtures.browser import find_browser
from tests.fixtures.page import SHOWN, as_png, as_text, opened, with_values

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium isn't installed")
STEM = "digits_vit_pico_m50_classifier_head"
LABELS = """(async () => {
    const { Classifier } = await import("./classifier.js");
    const { openPicture, pixelsOf } = await import("./pictures.js");
    const { classifiers } = await (await fetch("page.json")).json();
    const classifier = await Classifier.load(classifiers.find((about) => about.file === FILE));
    const found = [];
    for (const [i, text] of TEXTS.entries()) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const bitmap = await openPicture(new Blob([bytes]));
        const picture = await classifier.scale(pixelsOf(bitmap));
        found.push([...(await classifier.run(picture, i))]);
    }
    classifier.close();
    return found;
})()"""
PIXELS = """(async () => {
    const { openPicture, pixelsOf } = await import("./pictures.js");
    const bytes = Uint8Array.from(atob(TEXT), (c) => c.charCodeAt(0));
    const source = pixelsOf(await openPicture(new Blob([bytes])));
    const { rgb } = await import("./scaling.js");
    const data = await source.strip(0, source.height);
    return [source.height, source.width, [...rgb({ data })]];
})()"""


def _compare_with_litert(browser, file, pictures):
    texts = [as_text(path.read_bytes()) for path in pictures]
    found = np.array(browser.run(with_values(LABELS, FILE=file.name, TEXTS=texts)))
    reference = Classifier(file)
    images = [np.asarray(reference.scale(np.asarray(Image.open(path)))) for path in pictures]
    expected = np.array([reference.probabilities(image, i) for i, image in enumerate(images)])
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(found, expected, atol=1e-4 if "float32" in file.name else 0.03)


@pytest.mark.parametrize("kind", ["", "_sensor"])
def test_labels_of_all_test_images_are_those_of_litert(browser, site, pictures, kind):
    _compare_with_litert(browser, site / f"{STEM}{kind}_int8.tflite", pictures)


@pytest.mark.large
@pytest.mark.parametrize("quantize", ["int8", "float32", "float16", "int16x8"])
@pytest.mark.parametrize("kind", ["", "_sensor", "_patches"])
def test_every_kind_and_arithmetic_answers_as_litert(
    shared_browser, large_site, pictures, kind, quantize
):
    with opened(shared_browser, large_site):
        _compare_with_litert(
            shared_browser, large_site / f"{STEM}{kind}_{quantize}.tflite", pictures
        )


def test_a_browser_without_relaxed_simd_takes_the_other_wasm(shared_browser, site, pictures):
    # LiteRT.js asks by instantiating a few bytes.
    script = """const instantiate = WebAssembly.instantiate;
    WebAssembly.instantiate = (source, ...rest) => source.byteLength < 64
        ? Promise.reject(new Error("no relaxed SIMD")) : instantiate(source, ...rest);"""
    script = shared_browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        with opened(shared_browser, site) as browser:
            _compare_with_litert(browser, site / f"{STEM}_int8.tflite", pictures[:10])
            loaded = {url.rpartition("/")[2] for url in browser.requests()}
            assert "litert_wasm_compat_internal.wasm" in loaded
            assert "litert_wasm_internal.wasm" not in loaded
    finally:
        shared_browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_hidden_patches_are_grey_and_visible_ones_the_model_s_pixels(browser, site, pictures):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    size, values = browser.run("""(() => {
        const canvas = document.getElementById("model");
        const context = canvas.getContext("2d");
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        return [[canvas.height, canvas.width], [...data]];
    })()""")
    pixels = np.array(values).reshape(*size, 4)[..., :3]
    about = json.loads((site / "page.json").read_text())["classifiers"][0]
    reference = Classifier(site / about["file"])
    seen = np.asarray(reference.scale(np.asarray(Image.open(pictures[0]))))
    patch = about["patch_size"]
    side = about["image_size"] // patch
    for place in range(side * side):
        rows, columns = (slice(n * patch, (n + 1) * patch) for n in divmod(place, side))
        if place in about["masks"][0]:
            np.testing.assert_array_equal(pixels[rows, columns], seen[rows, columns])
        else:
            assert np.unique(pixels[rows, columns]).tolist() == [0x7D]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(browser, orientation):
    image = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.resize((32, 48), Image.Resampling.NEAREST).save(stream, "JPEG", quality=95, exif=exif)
    height, width, values = browser.run(with_values(PIXELS, TEXT=as_text(stream.getvalue())))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))
    assert (height, width) == expected.shape[:2]
    found = np.array(values).reshape(expected.shape)
    assert np.abs(found - expected.astype(int)).max() <= 4  # two decoders of JPEG


def test_transparency_is_dropped(browser):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4)).astype(np.uint8)
    pixels[:10, :, 3] = 0
    found = browser.run(with_values(PIXELS, TEXT=as_text(as_png(Image.fromarray(pixels)))))
    np.testing.assert_array_equal(np.array(found[2]).reshape(40, 30, 3), pixels[..., :3])


def test_transparency_that_a_browser_can_not_drop_is_said(shared_browser, site, tmp_path):
    script = """const getContext = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        return kind === "webgl" ? null : getContext.call(this, kind, ...rest);
    };"""
    script = shared_browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)
    said = "document.getElementById('message').textContent"
    for name, alpha in (("clear.png", 9), ("solid.png", 255)):
        Image.new("RGBA", (40, 40), (200, 100, 50, alpha)).save(tmp_path / name)
    try:
        with opened(shared_browser, site) as browser:
            browser.choose("#choose", tmp_path / "clear.png")
            browser.wait(SHOWN)
            assert "transparent pixels" in browser.run(said)
            browser.choose("#choose", tmp_path / "solid.png")
            browser.wait(f"{said} === ''")
    finally:
        shared_browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_a_colour_space_changes_no_number(browser):
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    plain = as_png(Image.fromarray(pixels))
    gamma = b"gAMA" + struct.pack(">I", 100_000)  # linear
    chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
    found = browser.run(with_values(PIXELS, TEXT=as_text(plain[:33] + chunk + plain[33:])))
    np.testing.assert_array_equal(np.array(found[2]).reshape(20, 30, 3), pixels)
