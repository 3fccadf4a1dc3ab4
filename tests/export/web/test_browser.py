"""The page in a real headless Chromium: it answers as LiteRT does, for eyes, hands and ears."""

import base64
import contextlib
import io
import json
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sparse_ist_tf.classify import Classifier
from tests.fixtures.browser import Browser, find_browser, serving
from tests.fixtures.page import export_page

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium isn't installed")
STEM = "digits_vit_pico_m50_classifier_head"
READY = "document.body && document.body.dataset.ready"
SHOWN = "document.body.dataset.state === 'shown'"
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


def _site(run, folder, litertjs, **options):
    good, printed = export_page(run, folder, wasm=str(litertjs), bound=100.0, **options)
    assert good, printed
    return folder


@pytest.fixture(scope="module")
def site(finished, litertjs, tmp_path_factory):
    """A page with two classifiers."""
    artefacts = ("classifier", "classifier_sensor")
    return _site(finished, tmp_path_factory.mktemp("web") / "page", litertjs, artefacts=artefacts)


@pytest.fixture(scope="module")
def large_site(finished, litertjs, tmp_path_factory):
    """A page with classifiers of every kind and arithmetic."""
    return _site(
        finished,
        tmp_path_factory.mktemp("web") / "large",
        litertjs,
        artefacts=("classifier", "classifier_sensor", "classifier_patches"),
        quantize=("int8", "float32", "float16", "int16x8"),
    )


@pytest.fixture(scope="module")
def pictures(run_path):
    """The test images' files."""
    return sorted((run_path.parent / "digits" / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def shared_browser():
    """Starts once; nobody asks for a camera's permission, and the camera is a test picture."""
    browser = Browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield browser
    browser.close()


@contextlib.contextmanager
def _opened(browser, folder):
    """A page, opened anew, that must neither complain nor ask anybody but its own server."""
    browser.events.clear()
    with serving(folder) as address:
        browser.open(address, READY)
        yield browser
        assert browser.complaints() == []
        assert [url for url in browser.requests() if not url.startswith(address)] == []


@pytest.fixture
def browser(shared_browser, site):
    """The page, opened anew."""
    with _opened(shared_browser, site):
        yield shared_browser


def _with(script, **values):
    for name, value in values.items():
        script = script.replace(name, json.dumps(value))
    return script


def _text(data):
    return base64.b64encode(data).decode()


def _png(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def _compare_with_litert(browser, file, pictures):
    texts = [_text(path.read_bytes()) for path in pictures]
    found = np.array(browser.run(_with(LABELS, FILE=file.name, TEXTS=texts)))
    reference = Classifier(file)
    images = [reference.scale(np.asarray(Image.open(path))).numpy() for path in pictures]
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
    with _opened(shared_browser, large_site):
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
        with _opened(shared_browser, site) as browser:
            _compare_with_litert(browser, site / f"{STEM}_int8.tflite", pictures[:10])
            loaded = {url.rpartition("/")[2] for url in browser.requests()}
            assert "litert_wasm_compat_internal.wasm" in loaded
            assert "litert_wasm_internal.wasm" not in loaded
    finally:
        shared_browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_a_chosen_picture_is_shown_with_its_labels(browser, site, pictures):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    (best,) = np.asarray(Image.open(pictures[0]))[None]
    first = json.loads((site / "page.json").read_text())["classifiers"][0]
    reference = Classifier(site / first["file"])
    probabilities = reference.probabilities(reference.scale(best).numpy())
    order = np.argsort(-probabilities, kind="stable")
    assert browser.run("document.getElementById('answer').textContent") == f"{order[0]} of ten"
    shown = browser.run("[...document.querySelectorAll('.label')].map((x) => x.textContent)")
    assert shown == [f"{digit} of ten" for digit in order]
    shares = browser.run("[...document.querySelectorAll('.share')].map((x) => x.textContent)")
    assert shares[0] == f"{100 * probabilities[order[0]]:.1f} %"
    assert " ms for the network, " in browser.run("document.getElementById('time').textContent")


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
    seen = reference.scale(np.asarray(Image.open(pictures[0]))).numpy()
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
    height, width, values = browser.run(_with(PIXELS, TEXT=_text(stream.getvalue())))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))
    assert (height, width) == expected.shape[:2]
    found = np.array(values).reshape(expected.shape)
    assert np.abs(found - expected.astype(int)).max() <= 4  # two decoders of JPEG


def test_transparency_is_dropped(browser):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4)).astype(np.uint8)
    pixels[:10, :, 3] = 0
    found = browser.run(_with(PIXELS, TEXT=_text(_png(Image.fromarray(pixels)))))
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
        with _opened(shared_browser, site) as browser:
            browser.choose("#choose", tmp_path / "clear.png")
            browser.wait(SHOWN)
            assert "transparent pixels" in browser.run(said)
            browser.choose("#choose", tmp_path / "solid.png")
            browser.wait(f"{said} === ''")
    finally:
        shared_browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_the_card_s_markdown_becomes_elements_and_nothing_runs(browser):
    card = "\n".join(
        ["# Card", "", "Two lines of", "one `paragraph` **here**.", "", "| a | b |", "|---|---:|",
         r"| `x\|y` | <b>1</b> |", "", "- one", "- two", "  goes on", "", "```python",
         "# no heading", "print('<i>')", "```", "", "<img src=x onerror='document.title = 1'>"]
    )  # fmt: skip
    script = """(async () => {
        const { render } = await import("./card.js");
        const box = document.createElement("div");
        box.append(render(CARD));
        return box.innerHTML;
    })()"""
    found = browser.run(_with(script, CARD=card))
    assert "<h3>Card</h3>" in found
    assert "<p>Two lines of one <code>paragraph</code> <strong>here</strong>.</p>" in found
    assert '<th scope="col">a</th><th scope="col" class="number">b</th>' in found
    assert '<td><code>x|y</code></td><td class="number">&lt;b&gt;1&lt;/b&gt;</td>' in found
    assert "<ul><li>one</li><li>two goes on</li></ul>" in found
    assert "<code># no heading\nprint('&lt;i&gt;')</code>" in found
    assert "<p>&lt;img src=x onerror='document.title = 1'&gt;</p>" in found


def test_a_colour_space_changes_no_number(browser):
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    plain = _png(Image.fromarray(pixels))
    gamma = b"gAMA" + struct.pack(">I", 100_000)  # linear
    chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
    found = browser.run(_with(PIXELS, TEXT=_text(plain[:33] + chunk + plain[33:])))
    np.testing.assert_array_equal(np.array(found[2]).reshape(20, 30, 3), pixels)


def test_a_file_that_is_no_picture_is_one_line_and_the_next_is_labelled(
    browser, pictures, tmp_path
):
    bad = tmp_path / "<b>letter.jpg"
    bad.write_text("Dear all")
    browser.choose("#choose", bad)
    browser.wait("document.getElementById('error').textContent")
    line = "<b>letter.jpg can't be read as a picture by this browser."
    assert browser.run("document.getElementById('error').textContent") == line
    small = tmp_path / "small.png"
    Image.new("RGB", (7, 30)).save(small)
    browser.choose("#choose", small)
    line = "small.png: 7 pixels along a side can't be cut into 8 patches"
    browser.wait(f"document.getElementById('error').textContent === {json.dumps(line)}")
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    assert browser.run("document.getElementById('error').textContent") == ""


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(browser, pictures, event):
    script = """(() => {
        const bytes = Uint8Array.from(atob(TEXT), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "it.png", { type: "image/png" }));
        const event = EVENT === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    })()"""
    browser.run(_with(script, TEXT=_text(pictures[0].read_bytes()), EVENT=event))
    browser.wait(SHOWN)
    assert "it.png: " in browser.run("document.getElementById('said').textContent")


def test_the_camera_is_labelled_until_it_is_stopped(browser, pictures):
    browser.run("document.getElementById('camera').click()")
    browser.wait(SHOWN)
    browser.wait("document.getElementById('camera').textContent === 'Stop the camera'")
    assert browser.run("document.getElementById('video').srcObject.active")
    browser.run("window.stream = document.getElementById('video').srcObject")
    browser.choose("#choose", pictures[0])
    browser.wait("document.getElementById('said').textContent.includes('.png')")
    assert browser.run("document.getElementById('camera').textContent") == "Use the camera"
    assert not browser.run("window.stream.active")


def test_another_file_labels_the_same_picture(browser, pictures):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    browser.run("""(() => {
        const which = document.getElementById("which");
        const names = [...which.options].map((option) => option.text);
        which.selectedIndex = names.findIndex((name) => name.includes("_sensor_"));
        which.dispatchEvent(new Event("change"));
    })()""")
    browser.wait("document.getElementById('size').textContent === '32 × 32'")


def test_all_is_reached_by_keyboard_and_seen_where_it_is(browser):
    reached = []
    for _ in range(8):
        browser.press("Tab")
        name, outline = browser.run("""(() => {
            const at = document.activeElement;
            const box = at.closest(".button") ?? at;
            return [at.id || at.tagName, getComputedStyle(box).outlineStyle];
        })()""")
        reached.append(name)
        assert outline != "none" or name == "BODY", name
    assert reached[:4] == ["choose", "camera", "which", "SUMMARY"]
    browser.run("document.querySelector('summary').focus()")
    browser.press("Enter")
    browser.wait("document.querySelector('#card-text table')")


def test_a_screen_reader_is_told_what_everything_is(browser, pictures):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    found = {}
    for node in nodes:
        if not node.get("ignored"):
            role, name = node["role"]["value"], node.get("name", {}).get("value", "")
            found.setdefault(role, []).append(name)
    assert found["heading"][0] == "digits"
    assert any("Choose a picture" in name for name in found["button"]), found["button"]
    assert "Use the camera" in found["button"]
    assert sorted(found["meter"]) == [f"{digit} of ten" for digit in range(10)]
    assert any(name.endswith(".png, hidden patches hatched") for name in found["image"])
    assert "The pixels that the model sees, hidden ones grey" in found["image"]
    live = browser.run("document.querySelector('[aria-live]').textContent")
    assert live.startswith(f"{pictures[0].name}: ")
    assert not [name for role in ("button", "image", "meter") for name in found[role] if not name]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_in_light_and_dark(browser, pictures, tmp_path, width, dark):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    browser.run("document.getElementById('card').open = true")
    browser.wait("document.querySelector('#card-text table')")
    time.sleep(0.2)
    shot = tmp_path / "page.png"
    browser.screenshot(shot, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    corner = np.asarray(Image.open(shot).convert("L"))[2, 2]
    assert corner < 40 if dark else corner > 240


def test_a_folder_that_lacks_a_file_says_which(browser, site):
    moved = site / "page.json"
    content = moved.read_bytes()
    moved.unlink()
    try:
        browser.run("document.body.dataset.old = 'yes'")
        browser.send("Page.reload", ignoreCache=True)
        browser.wait("document.body && !document.body.dataset.old && "
                     "document.getElementById('error')?.textContent")  # fmt: skip
        said = browser.run("document.getElementById('error').textContent")
        assert said == "page.json isn't there (404)."
    finally:
        moved.write_bytes(content)
        browser.events.clear()


def test_without_a_server_the_page_says_what_to_do(shared_browser, site):
    address = (site / "index.html").as_uri()
    shared_browser.open(address, "document.querySelector('.stuck')")
    shared_browser.wait(
        "getComputedStyle(document.querySelector('.stuck')).visibility === 'visible'"
    )
    shared_browser.events.clear()
