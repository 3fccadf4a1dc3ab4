"""Checks the package's types with mypy, as [tool.mypy] of pyproject.toml says.

    python tools/typecheck.py

sparse_ist_tf.export lies beside the package, where mypy doesn't look for it; so it is shown a
folder of links in which it lies where it is imported.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Runs mypy.

    Args:
        arguments: more of its options.

    Returns:
        Its exit status.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "sparse_ist_tf"
        package.mkdir()
        for path in (*(ROOT / "sparse_ist_tf").iterdir(), ROOT / "export"):
            (package / path.name).symlink_to(path)
        options = [f"--config-file={ROOT}/pyproject.toml", f"--cache-dir={ROOT}/.mypy_cache"]
        command = [sys.executable, "-m", "mypy", *options, *arguments, "-p", "sparse_ist_tf"]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
