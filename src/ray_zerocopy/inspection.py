"""What is in an image file, and whether it is what was written, for the command line. Imports neither torch nor Ray."""

from __future__ import annotations

import json
import os

from ray_zerocopy import _engine


def described(path: str) -> str:
    """What is in an image file, in lines of text.

    Raises:
        OSError, ValueError: it cannot be opened, or is not an image.
    """
    file = _engine.Image.open(path)
    index = json.loads(file.index)
    lines = [
        f"file      {path}, {file.nbytes / 1e6:.1f} MB",
        f"digest    {file.digest}",
        f"producer  {index['producer']}",
        *(f"metadata  {key}: {value}" for key, value in file.metadata.items()),
        *(f"segment   {number}: {nbytes / 1e6:.1f} MB" for number, (_, nbytes, _) in enumerate(index["segments"])),
        *(f"root      {root['name']}" for root in index["roots"]),
    ]
    for count, of_what in ((len(index["archives"]), "TorchScript"), (len(index["programs"]), "compiled program")):
        if count:
            lines.append(f"code      {of_what}: {count}")
    rows = [
        (name, dtype, "x".join(map(str, shape)) or "-", f"block {block}")
        for name, (dtype, shape, _, block, _) in index["tensors"].items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"tensor    {'  '.join(cells)}".rstrip())
    return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    """A line that a terminal shows and does not obey: names in a file, and of files, may be any characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def damages(path: str) -> list[str]:
    """What of a file's weights and code is not what was written, a sentence each; none: the file is sound.

    Raises:
        OSError, ValueError: it cannot be opened, or is not an image.
    """
    return _engine.Image.open(path).verify(min(8, os.cpu_count() or 1))
