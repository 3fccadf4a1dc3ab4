"""LiteRT.js from npm or from a folder, and one line where it can't be had."""

import io
import tarfile

import pytest

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.export.web import runtime

CONTENTS = {
    "core": {
        name: f"{name} of core".encode()
        for name in (
            "dist/index.js",
            *(f"wasm/litert_wasm{kind}_internal.{end}" for kind in ("", "_compat")
              for end in ("js", "wasm")),
        )
    }
    | {"dist/index.js": b'import { a } from "@litertjs/wasm-utils";\n//# sourceMappingURL=i\n'},
    "wasm-utils": {"dist/index.js": b"export const a = 1;\n"},
}  # fmt: skip


@pytest.fixture
def known(monkeypatch):
    """The digests are those of CONTENTS."""
    import hashlib

    files = {
        name: (package, inside, hashlib.sha256(CONTENTS[package][inside]).hexdigest())
        for name, (package, inside, _) in runtime._FILES.items()
    }
    monkeypatch.setattr(runtime, "_FILES", files)


def _unpacked(folder, modules="node_modules"):
    for package, files in CONTENTS.items():
        for inside, content in files.items():
            path = folder / modules / "@litertjs" / package / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def _packed(folder):
    for package, files in CONTENTS.items():
        with tarfile.open(folder / f"litertjs-{package}-{runtime.VERSION}.tgz", "w:gz") as archive:
            for inside, content in files.items():
                entry = tarfile.TarInfo(f"package/{inside}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder


def _npm(folder, monkeypatch, script):
    """A program of this name alone on the path."""
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.mark.parametrize("place", ["archives", "node_modules", ""])
def test_archives_and_node_modules_give_the_same_files(known, tmp_path, place):
    folder = _packed(tmp_path) if place == "archives" else _unpacked(tmp_path, place)
    files = runtime.load(str(folder))
    assert set(files) == {*runtime._FILES, "README.txt"}
    assert files["index.js"] == b'import { a } from "./wasm-utils.js";\n'
    assert files["litert_wasm_internal.wasm"] == b"wasm/litert_wasm_internal.wasm of core"


def test_npm_is_asked_where_no_folder_is_given(known, tmp_path, monkeypatch):
    packed = tmp_path / "packed"
    packed.mkdir()
    _packed(packed)
    _npm(tmp_path, monkeypatch, f"/bin/cp {packed}/*.tgz . && echo $@ > {tmp_path}/asked")
    assert "index.js" in runtime.load("")
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(runtime.PACK.removeprefix("npm "))
    assert "--ignore-scripts" in asked


def test_without_npm_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (runtime.require, runtime.load):
        with pytest.raises(RequestError, match=r"npm isn't installed.*--wasm=FOLDER") as error:
            ask("")
        assert "\n" not in str(error.value)


def test_an_npm_that_fails_is_one_line(tmp_path, monkeypatch):
    says = "echo 'npm error code E404' >&2; echo 'npm error 404 Not Found' >&2; exit 1"
    _npm(tmp_path, monkeypatch, says)
    with pytest.raises(RunError, match=r"^npm brought no LiteRT.js \(404 Not Found\); run `npm"):
        runtime.load("")


def test_an_npm_that_hangs_is_given_up(tmp_path, monkeypatch):
    _npm(tmp_path, monkeypatch, "exec /bin/sleep 30")
    monkeypatch.setattr(runtime, "NPM_SECONDS", 0.2)
    with pytest.raises(RunError, match=r"no LiteRT.js in 0.2 s"):
        runtime.load("")


def test_a_folder_without_the_packages_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RequestError, match=r"has neither litertjs-core-2.*tgz nor node_module"):
            runtime.require(str(folder))


def test_another_version_or_a_changed_file_is_refused(known, tmp_path):
    _unpacked(tmp_path)
    path = tmp_path / "node_modules/@litertjs/core/wasm/litert_wasm_internal.wasm"
    path.write_bytes(b"another")
    with pytest.raises(RequestError, match=r"litert_wasm_internal.wasm isn't that of @litertjs/co"):
        runtime.load(str(tmp_path))
    path.unlink()
    with pytest.raises(RequestError, match=r"litert_wasm_internal.wasm can't be read: "):
        runtime.load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_archive_is_refused(known, tmp_path, content):
    archive = _packed(tmp_path) / f"litertjs-core-{runtime.VERSION}.tgz"
    archive.write_bytes(archive.read_bytes()[:-60] if content is None else content)
    with pytest.raises(RequestError, match=r"tgz: .* can't be read: ") as error:
        runtime.load(str(tmp_path))
    assert "\n" not in str(error.value)
