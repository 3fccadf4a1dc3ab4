"""Exported pages, and a browser that opens them."""

import pytest

from tests.fixtures.browser import Browser
from tests.fixtures.page import export_page, opened


def _export(run, folder, litertjs, **options):
    good, printed = export_page(run, folder, wasm=str(litertjs), bound=100.0, **options)
    assert good, printed
    return folder


@pytest.fixture(scope="session")
def site(finished, litertjs, tmp_path_factory):
    """A page with two classifiers."""
    artefacts = ("classifier", "classifier_sensor")
    return _export(finished, tmp_path_factory.mktemp("web") / "page", litertjs, artefacts=artefacts)


@pytest.fixture(scope="session")
def large_site(finished, litertjs, tmp_path_factory):
    """A page with classifiers of every kind and arithmetic."""
    return _export(
        finished,
        tmp_path_factory.mktemp("web") / "large",
        litertjs,
        artefacts=("classifier", "classifier_sensor", "classifier_patches"),
        quantize=("int8", "float32", "float16", "int16x8"),
    )


@pytest.fixture(scope="session")
def pictures(run_path):
    """The test images' files."""
    return sorted((run_path.parent / "digits" / "test").rglob("*.png"))


@pytest.fixture(scope="session")
def shared_browser():
    """Starts once; nobody asks for a camera's permission, and the camera is a test picture."""
    browser = Browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser, site):
    """The page, opened anew."""
    with opened(shared_browser, site):
        yield shared_browser
