"""What a process says of its loaded models to other processes of its machine: a file in memory that only it holds.

It is a memfd, which others of the same user find among the process's descriptors (`/proc/PID/fd`), and which is gone
with the process, however that ends, or with its last model. Of each load it has one line of JSON, and one more when
that is dropped. It says where the weights are mapped; what has become of those pages since then, the reader asks the
kernel. So a process does nothing between loads, and has no thread for this.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

_NAME = "ray_zerocopy.loads.1"
"""With the version of what is in it."""

_SPARE_LINES = 64
"""How many lines of dropped loads a record may have, beside as many as there are living ones."""


class Entry(NamedTuple):
    """A load, as others see it."""

    model: str
    source: str
    origin: str | None
    nbytes: int
    copied_bytes: int
    private_copy_reason: str | None
    pages: list[tuple[int, int]]
    """Where its mapped weights are in the process: of each mapping the first and the last (exclusive) address."""


class Record(NamedTuple):
    """A process's loads."""

    process: int
    node: str | None
    """The Ray node that it is connected to."""
    entries: tuple[Entry, ...]


class _File:
    """A memfd, closed when nobody uses it any more."""

    def __init__(self, entries: dict[int, Entry]) -> None:
        self.process = os.getpid()
        self.node = _node()
        self.lines = len(entries)
        self._descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, os.O_APPEND)  # so that lines of several threads do not mix
        head = json.dumps({"process": self.process, "node": self.node})
        self._write("\n".join([head, *(json.dumps([number, *entry]) for number, entry in entries.items()), ""]))

    def is_of_now(self) -> bool:
        """Whether its head is right: not that of the parent, of before a fork, nor of before Ray was started."""
        return self.process == os.getpid() and self.node == _node()

    def append(self, line: str) -> None:
        self.lines += 1
        self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        left = text.encode()
        while left:
            left = left[os.write(self._descriptor, left) :]

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


# As in `loads`: no lock, since an entry may be removed in the middle of what is done here.
_entries: dict[int, Entry] = {}
_file: _File | None = None


def add(number: int, entry: Entry) -> None:
    """Put a load on record."""
    _entries[number] = entry
    _say(json.dumps([number, *entry]))


def remove(number: int) -> None:
    """Take a load off the record."""
    if _entries.pop(number, None) is not None:
        _say(json.dumps([number]))


def renew() -> None:
    """Write the record anew if it is that of before a fork, or of before this process was connected to Ray."""
    if _file is not None and not _file.is_of_now():
        with contextlib.suppress(OSError):
            while not _is_written_anew():
                pass


def _say(line: str) -> None:
    if not hasattr(os, "memfd_create"):
        return
    with contextlib.suppress(OSError):  # no descriptor to be had, say: a load does not fail for that
        if not _is_appended(line):
            while not _is_written_anew():
                pass  # another thread added or removed something that is not in it


def _is_appended(line: str) -> bool:
    """Whether the line is in the file that others read: another thread may just have written that anew."""
    file = _file
    if file is None or not _entries or not file.is_of_now() or file.lines > 2 * len(_entries) + _SPARE_LINES:
        return False
    file.append(line)
    return _file is file


def _is_written_anew() -> bool:
    """Whether the file has what is on record now."""
    global _file
    entries = _entries.copy()
    _file = _File(entries) if entries else None
    return _entries.keys() == entries.keys()


def _node() -> str | None:
    ray: Any = sys.modules.get("ray")  # which files can do without
    client: Any = sys.modules.get("ray.util.client")
    is_initialized = getattr(ray, "is_initialized", None)  # None, too, while another thread imports it
    if is_initialized is None or not is_initialized() or (client is not None and client.ray.is_connected()):
        return None
    node: str = ray.get_runtime_context().get_node_id()
    return node


def all_of_this_machine() -> Iterator[Record]:
    """The records of all processes that this one may look into."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and (found := of_process(int(name))) is not None:
            yield found


def of_process(process: int) -> Record | None:
    """A process's record; None: it has none, has ended, or is somebody else's.

    A forked child has its parent's until it loads or drops a model itself.
    """
    held = f"/proc/{process}/fd"
    found = None
    with contextlib.suppress(OSError):
        if os.stat(held).st_uid != os.geteuid():  # root may look into anybody's
            return None
        for descriptor in os.listdir(held):
            path = f"{held}/{descriptor}"
            # Any process may hold a file of this name, with anything in it.
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
                if os.readlink(path).startswith(f"/memfd:{_NAME} "):
                    found = _read(path, process)
                    if found.process == process:
                        break
    return None if found is None else found._replace(process=process)


_LARGEST = 16 << 20
"""Bytes of a record that is read: more say what no process has loaded."""


def _read(path: str, process: int) -> Record:
    with open(path, "rb", opener=_opened_without_waiting) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(path)
    head, *lines = content.decode().split("\n")[:-1]  # what follows the last line's end is being written
    said = json.loads(head)
    entries: dict[int, Entry] = {}
    for line in lines:
        number, *fields = json.loads(line)
        if fields:
            entries[number] = _checked(Entry._make(fields))
        else:
            entries.pop(number, None)
    return Record(said["process"], said["node"], tuple(entries.values()))


def _opened_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # another descriptor may have taken its number meanwhile


def _checked(entry: Entry) -> Entry:
    """The entry, if it could be one of ours: a process can write anything into its record.

    Raises:
        ValueError, TypeError: it could not.
    """
    pages = [(first, last) for first, last in entry.pages]
    texts = (entry.model, entry.source, entry.origin or "", entry.private_copy_reason or "")
    numbers = (entry.nbytes, entry.copied_bytes, *(address for span in pages for address in span))
    if not all(isinstance(text, str) for text in texts) or not all(
        type(n) is int and 0 <= n < 1 << 64 for n in numbers
    ):
        raise ValueError(entry)
    return entry._replace(pages=pages)
