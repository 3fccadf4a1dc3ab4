"""Checks the package's types with mypy, as [tool.mypy] of pyproject.toml says.

python tools/typecheck.py
"""

import subprocess
import sys

from whole_package import ROOT, whole_package


def main(arguments: list[str]) -> int:
    """Runs mypy.

    Args:
        arguments: more of its options.

    Returns:
        Its exit status.
    """
    options = [f"--config-file={ROOT}/pyproject.toml", f"--cache-dir={ROOT}/.mypy_cache"]
    command = [sys.executable, "-m", "mypy", *options, *arguments, "-p", "sparse_ist_tf"]
    with whole_package() as folder:
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
