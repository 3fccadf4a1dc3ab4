"""LiteRT.js, which runs .tflite files in browsers: from npm, or from where the user has it.

Its wasm is 19 MB and not in our repository. One version is known to work, and every file of it is
known by its digest, wherever it comes from.

Source: npm, @litertjs/core and @litertjs/wasm-utils, Apache License 2.0.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from sparse_ist_tf.errors import RequestError, RunError

VERSION = "2.5.3"
PACKAGES = ("core", "wasm-utils")
PACK = "npm pack " + " ".join(f"@litertjs/{name}@{VERSION}" for name in PACKAGES)
NPM_SECONDS = 300

# What a page loads: its name there, the package that has it, where, and its sha256. "compat" is for
# browsers without relaxed SIMD; threads and JSPI want more of a server or a browser.
_FILES = {
    "index.js": (
        "core", "dist/index.js",
        "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    ),
    "wasm-utils.js": (
        "wasm-utils", "dist/index.js",
        "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
    ),
    "litert_wasm_internal.js": (
        "core", "wasm/litert_wasm_internal.js",
        "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    ),
    "litert_wasm_internal.wasm": (
        "core", "wasm/litert_wasm_internal.wasm",
        "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    ),
    "litert_wasm_compat_internal.js": (
        "core", "wasm/litert_wasm_compat_internal.js",
        "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    ),
    "litert_wasm_compat_internal.wasm": (
        "core", "wasm/litert_wasm_compat_internal.wasm",
        "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    ),
}  # fmt: skip
_IMPORT = (b'from "@litertjs/wasm-utils"', b'from "./wasm-utils.js"')
_README = f"""LiteRT.js {VERSION}

From the npm packages @litertjs/core and @litertjs/wasm-utils, version {VERSION}, Apache License 2.0
(LICENSE beside this file), by Google; source: https://github.com/google-ai-edge/LiteRT, litert/js.

Changed: index.js imports wasm-utils.js, which is dist/index.js of @litertjs/wasm-utils, by its
place beside it; the lines that name source maps are left out of both. All else is as npm has it.
"""


def require(path: str) -> None:
    """Checks, at once, that the runtime can be had.

    Args:
        path: as load().

    Raises:
        RequestError: if there is no npm where none was given, or nothing at the path.
    """
    if path:
        for package in PACKAGES:
            _find(Path(path), package)
    elif shutil.which("npm") is None:
        raise RequestError(
            f"target=web: npm isn't installed, which brings LiteRT.js; run `{PACK}` elsewhere and "
            "give the folder as --wasm=FOLDER"
        )


def load(path: str) -> dict[str, bytes]:
    """The files that a page needs.

    Args:
        path: a folder with the archives that `npm pack` writes, or with node_modules; npm is asked
            where empty.

    Returns:
        By name: scripts and wasm, README.txt.

    Raises:
        RequestError: if something isn't there, or isn't of this version.
        RunError: if npm fails.
    """
    require(path)
    if path:
        return _read(Path(path))
    with tempfile.TemporaryDirectory(prefix="litertjs.") as folder:
        _ask_npm(folder)
        return _read(Path(folder))


def _ask_npm(folder: str) -> None:
    command = [*PACK.split(), "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
    how = f"run `{PACK}` where it works and give the folder as --wasm=FOLDER"
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"npm brought no LiteRT.js in {NPM_SECONDS} s; {how}") from None
    if done.returncode:
        said = [line.removeprefix("npm error ") for line in done.stderr.splitlines()]
        reason = next((line for line in said if not line.startswith("code ")), done.returncode)
        raise RunError(f"npm brought no LiteRT.js ({reason}); {how}")


def _find(folder: Path, package: str) -> Path:
    """A package's folder or archive."""
    archive = f"litertjs-{package}-{VERSION}.tgz"
    unpacked = (folder / "node_modules" / "@litertjs" / package, folder / "@litertjs" / package)
    for place in (*unpacked, folder / archive):
        if place.exists():
            return place
    raise RequestError(
        f"wasm={str(folder)!r}: has neither {archive} nor node_modules/@litertjs/{package}; "
        f"`{PACK}` writes the archives"
    )


def _read(folder: Path) -> dict[str, bytes]:
    files = {}
    for name, (package, inside, digest) in _FILES.items():
        place = _find(folder, package)
        try:
            content = _content(place, inside)
        except (OSError, KeyError, tarfile.TarError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"{place}: {inside} can't be read: {reason}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise RequestError(f"{place}: {inside} isn't that of @litertjs/{package} {VERSION}")
        files[name] = _in_place(content) if inside == "dist/index.js" else content
    return {**files, "README.txt": _README.encode()}


def _content(place: Path, inside: str) -> bytes:
    if place.is_dir():
        return (place / inside).read_bytes()
    with tarfile.open(place) as archive:
        member = archive.extractfile(f"package/{inside}")
        if member is None:
            raise KeyError(f"{inside} is no file")
        return member.read()


def _in_place(script: bytes) -> bytes:
    """A script whose imports are files beside it, without the name of a source map."""
    return script.replace(*_IMPORT).partition(b"//# sourceMappingURL=")[0]
