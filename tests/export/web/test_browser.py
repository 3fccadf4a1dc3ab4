"""The page in a real headless Chromium, for eyes, hands and ears."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.classify import Classifier
from tests.fixtures.browser import find_browser
from tests.fixtures.page import SHOWN, as_text, with_values

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium isn't installed")


def test_a_chosen_picture_is_shown_with_its_labels(browser, site, pictures):
    browser.choose("#choose", pictures[0])
    browser.wait(SHOWN)
    (best,) = np.asarray(Image.open(pictures[0]))[None]
    first = json.loads((site / "page.json").read_text())["classifiers"][0]
    reference = Classifier(site / first["file"])
    probabilities = reference.probabilities(np.asarray(reference.scale(best)))
    order = np.argsort(-probabilities, kind="stable")
    assert browser.run("document.getElementById('answer').textContent") == f"{order[0]} of ten"
    shown = browser.run("[...document.querySelectorAll('.label')].map((x) => x.textContent)")
    assert shown == [f"{digit} of ten" for digit in order]
    shares = browser.run("[...document.querySelectorAll('.share')].map((x) => x.textContent)")
    assert shares[0] == f"{100 * probabilities[order[0]]:.1f} %"
    assert " ms for the network, " in browser.run("document.getElementById('time').textContent")


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
    found = browser.run(with_values(script, CARD=card))
    assert "<h3>Card</h3>" in found
    assert "<p>Two lines of one <code>paragraph</code> <strong>here</strong>.</p>" in found
    assert '<th scope="col">a</th><th scope="col" class="number">b</th>' in found
    assert '<td><code>x|y</code></td><td class="number">&lt;b&gt;1&lt;/b&gt;</td>' in found
    assert "<ul><li>one</li><li>two goes on</li></ul>" in found
    assert "<code># no heading\nprint('&lt;i&gt;')</code>" in found
    assert "<p>&lt;img src=x onerror='document.title = 1'&gt;</p>" in found


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
    browser.run(with_values(script, TEXT=as_text(pictures[0].read_bytes()), EVENT=event))
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
