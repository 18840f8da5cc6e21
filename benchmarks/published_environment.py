"""A virtual environment for the published package, which has this one's import name; it borrows everything else.

A folder on `PYTHONPATH` would not do: an editable installation of this package is found before it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

VERSION = "0.2.0"


def published_python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made if it is not there.

    Raises:
        subprocess.CalledProcessError: pip cannot get the package.
    """
    python = folder / "bin" / "python"
    made = folder / f"ray-zerocopy-{VERSION}"
    if not made.exists():
        venv.create(folder, clear=True, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "-qq", "--no-deps"]
        subprocess.run([*pip, f"ray-zerocopy=={VERSION}"], check=True)
        own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
        # Packages of a folder named here are found; path files in it, such as an editable installation's, are not read.
        (own / "environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
        made.touch()
    return python
