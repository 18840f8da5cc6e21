"""A program that loads a model where its weights cannot be shared, and prints what it saw in each case as JSON.

The process that is started holds a shared file with the weights, as a raylet does. A child has them mapped and not the
file, as a worker has, and walls itself off in one way.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ray_zerocopy.image import freeze
from ray_zerocopy.image.image import Image
from ray_zerocopy.transport import store

_NOBODY = 65534
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_REC_PRIVATE = 0x4000 | (1 << 18)
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22

libc = ctypes.CDLL(None, use_errno=True)


class CannotBeMadeError(Exception):
    """This machine does not let the program make the case."""


def _called(result: int, what: str) -> None:
    if result != 0:
        raise CannotBeMadeError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _unshare(flags: int) -> None:
    _called(libc.unshare(flags), "unshare")


def _mount(kind: str, options: str | None = None) -> None:
    """Mount something on /proc that this process and its children alone see."""
    _called(libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "mount --make-rprivate /")
    _called(libc.mount(kind.encode(), b"/proc", kind.encode(), 0, options.encode() if options else None), "mount /proc")


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    except PermissionError as error:
        raise CannotBeMadeError(str(error)) from error
    # As a program that was started by that user is.
    _called(libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")


_SYSTEM_CALLS = {
    "x86_64": {"getdents64": 217, "process_madvise": 440, "statx": 332, "userfaultfd": 323},
    "aarch64": {"getdents64": 61, "process_madvise": 440, "statx": 291, "userfaultfd": 282},
}


def _refuse(*names: str) -> None:
    """Have the kernel refuse some system calls (seccomp(2)), with EPERM as container runtimes do."""
    numbers = _SYSTEM_CALLS.get(platform.machine())
    if numbers is None:
        raise CannotBeMadeError(f"system calls of {platform.machine()} are not known")
    load_number = struct.pack("HBBI", 0x20, 0, 0, 0)
    is_number = [struct.pack("HBBI", 0x15, 0, 1, numbers[name]) for name in names]
    refuse = struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    code = load_number + b"".join(is_one + refuse for is_one in is_number) + allow
    filter_bytes = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(filter_bytes))
    _called(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _called(libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def _nothing() -> None:
    pass


# What the parent does before it forks, and what the child does before it loads.
CASES: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "nothing between them": (_nothing, _nothing),
    "a PID namespace": (lambda: _unshare(_CLONE_NEWPID | _CLONE_NEWNS), lambda: _mount("proc")),
    "a PID namespace without its proc": (lambda: _unshare(_CLONE_NEWPID), _nothing),
    "no proc": (_nothing, lambda: (_unshare(_CLONE_NEWNS), _mount("tmpfs"))[0]),
    "a proc that hides others": (
        _nothing,
        lambda: (_unshare(_CLONE_NEWNS), _mount("proc", "hidepid=2"), _become_nobody())[0],
    ),
    "another user": (_nothing, _become_nobody),
    "seccomp without what is new": (_nothing, lambda: _refuse("userfaultfd", "process_madvise")),
    "seccomp without statx": (_nothing, lambda: _refuse("statx")),
    "seccomp without getdents64": (_nothing, lambda: _refuse("getdents64")),
}


def model() -> nn.Module:
    """4 MB."""
    torch.manual_seed(0)
    return nn.Linear(1024, 1024).eval()


def called_with(loaded: Any, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = loaded(x)
    return result


def seen_of(source: Any) -> dict[str, Any]:
    """What loading twice gives, writes between, and what is said about it."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ray_zerocopy").addHandler(handler)
    expected = model()
    first, view, _ = store.load(source)
    right = torch.equal(first.weight, expected.weight)
    with torch.no_grad():
        first.weight.add_(1)
    second = store.load(source).root
    assert view is not None
    return {
        "right": right,
        "isolated": torch.equal(second.weight, expected.weight) and not torch.equal(first.weight, expected.weight),
        "shared": view.copied_bytes == 0,
        "said": said,
    }


def in_shared_memory(image: Image) -> tuple[Image, int]:
    """The same image with its segments in a shared file, and the file."""
    lengths = [-(-memoryview(segment).nbytes // mmap.PAGESIZE) * mmap.PAGESIZE for segment in image.segments]
    file = os.memfd_create("store")
    os.ftruncate(file, sum(lengths))
    shared = memoryview(mmap.mmap(file, sum(lengths)))
    segments = []
    for segment, length in zip(image.segments, lengths, strict=True):
        shared[: memoryview(segment).nbytes] = memoryview(segment).cast("B")
        segments.append(shared[: memoryview(segment).nbytes].toreadonly())
        shared = shared[length:]
    return Image.of(replace(image.parts, segments=tuple(segments))), file


def in_case(case: str, image: Image, file: int, report: int) -> None:
    """Write to `report` what a child sees in one case; the calling process makes room for it, and has one case."""
    in_parent, in_child = CASES[case]
    try:
        in_parent()
    except CannotBeMadeError as error:
        _write(report, {"cannot be made": str(error)})
        return
    child = os.fork()
    if child == 0:
        _close(file)
        try:
            in_child()
            _write(report, seen_of(image))
        except CannotBeMadeError as error:
            _write(report, {"cannot be made": str(error)})
        os._exit(0)
    os.waitpid(child, 0)


def _write(report: int, found: dict[str, Any]) -> None:
    os.write(report, json.dumps(found).encode())


def main() -> None:
    image, file = in_shared_memory(freeze(model()))
    before = [bytes(segment) for segment in image.segments]
    found = {}
    for case in CASES:
        reader, report = os.pipe()
        process = os.fork()
        if process == 0:
            in_case(case, image, file, report)
            os._exit(0)
        os.close(report)
        with os.fdopen(reader) as text:
            found[case] = json.loads(text.read() or "null")
        os.waitpid(process, 0)
        if [bytes(segment) for segment in image.segments] != before:
            sys.exit(f"{case}: somebody wrote to what is shared")
    print(json.dumps(found))


def _close(file: int) -> None:
    """Close every descriptor of a file: a mapping has one of its own."""
    status = os.fstat(file)
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(entry)), status):
                os.close(int(entry))
        except OSError:
            pass


if __name__ == "__main__":
    main()
