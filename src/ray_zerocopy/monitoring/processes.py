"""What all processes of this machine that are connected to one Ray node have loaded, and what that costs them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ray_zerocopy import _engine
from ray_zerocopy.monitoring import record


class ProcessModel(NamedTuple):
    """One model in one process. Figures of pages count whole ones."""

    process: int
    """Its number (PID)."""
    title: str
    """What `ps` calls the process: Ray names its workers after what they run."""
    model: str
    """What the model is called: its class, and where it is in its pipeline."""
    source: str
    """Where its weights are shared: "store", "keeper", "file" or "checkpoint"."""
    origin: str | None
    """The name or the path that it was loaded from, where it has one."""
    loads: int
    """How often it is loaded; the figures are those of all."""
    nbytes: int
    """Bytes of its weights: what it would cost this process without sharing."""
    shared_bytes: int
    """Bytes of mapped pages that the process has not written to."""
    copied_bytes: int
    """Of `nbytes`, what is a private copy."""
    private_copy_reason: str | None
    diverged_bytes: int
    """Bytes of mapped pages that the process has written to."""
    page_table_bytes: int
    """What its page table takes for the mapped pages: an estimate."""

    @property
    def private_bytes(self) -> int:
        """Bytes that are the process's alone: copied and diverged."""
        return self.copied_bytes + self.diverged_bytes


class NodeMemory(NamedTuple):
    """One node's processes."""

    address: str
    node: str
    """Its Ray node ID."""
    models: tuple[ProcessModel, ...]
    one_copy_bytes: int
    """Bytes of the pages that the processes map, each page counted once: the node's one copy."""

    @property
    def cost_bytes(self) -> int:
        """What the models cost the node: the one copy, and what each process has of its own for them."""
        return self.one_copy_bytes + sum(model.private_bytes + model.page_table_bytes for model in self.models)

    @property
    def cost_without_bytes(self) -> int:
        """What they would cost if each process had a copy of its own of each, as after `ray.get` of a model."""
        return sum(model.nbytes for model in self.models)


class _Part(NamedTuple):
    """Some bytes of a file that a process has mapped."""

    file: tuple[str, str]
    """Its device and its inode."""
    begin: int
    end: int


class _Mapped(NamedTuple):
    first: int
    last: int
    """Exclusive."""
    part: _Part


def of_node(node: str, address: str) -> NodeMemory:
    """Asks the kernel about the pages of each process that is connected to the node and has models loaded.

    Args:
        node: the Ray node ID of this machine, or of one of its nodes.
        address: passed through.
    """
    models: list[ProcessModel] = []
    parts: set[_Part] = set()
    for found in record.all_of_this_machine():
        if found.node == node:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                seen, mapped = _of_process(found)
                models += seen
                parts |= mapped
    models.sort(key=lambda model: (model.process, model.model))
    return NodeMemory(address, node, tuple(models), _bytes_once(parts))


def _of_process(found: record.Record) -> tuple[list[ProcessModel], set[_Part]]:
    title = _title(found.process)
    mappings = list(_private_mappings(found.process))
    loads: dict[tuple[str, str, str | None], list[tuple[record.Entry, _engine.PageUse]]] = defaultdict(list)
    parts: set[_Part] = set()
    for entry in found.entries:
        mapped = list(_within(mappings, entry.pages))
        if entry.pages and not mapped:
            continue  # a forked child that has dropped what its parent recorded
        parts.update(part for *_, part in mapped)
        seen_pages = sorted({(part.first, part.last) for part in mapped})  # whatever else the record says
        use = _engine.page_use(found.process, seen_pages)
        loads[entry.model, entry.source, entry.origin].append((entry._replace(pages=seen_pages), use))
    seen = []
    for (model, source, origin), several in loads.items():
        pages = sum(last - first for entry, _ in several for first, last in entry.pages)
        diverged = sum(use.own_bytes for _, use in several)
        seen.append(
            ProcessModel(
                found.process,
                title,
                model,
                source,
                origin,
                loads=len(several),
                nbytes=sum(entry.nbytes for entry, _ in several),
                shared_bytes=pages - diverged,
                copied_bytes=sum(entry.copied_bytes for entry, _ in several),
                private_copy_reason=next((e.private_copy_reason for e, _ in several if e.private_copy_reason), None),
                diverged_bytes=diverged,
                page_table_bytes=sum(use.page_table_bytes for _, use in several),
            )
        )
    return seen, parts


def _title(process: int) -> str:
    command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    if command[0].startswith(b"ray::"):
        return command[0].decode(errors="replace").strip()
    return b" ".join(filter(None, command)).decode(errors="replace")


def _private_mappings(process: int) -> Iterator[_Mapped]:
    """Of files, in the order of addresses."""
    with open(f"/proc/{process}/maps", errors="surrogateescape", newline="\n") as maps:
        for line in maps:
            span, permissions, offset, device, inode = line.split(maxsplit=5)[:5]
            if permissions.endswith("p") and inode != "0":
                first, last = (int(address, 16) for address in span.split("-"))
                begin = int(offset, 16)
                yield _Mapped(first, last, _Part((device, inode), begin, begin + last - first))


def _within(mappings: Iterable[_Mapped], pages: list[tuple[int, int]]) -> Iterator[_Mapped]:
    """The parts of the mappings that these pages are."""
    for first, last in pages:
        for mapping in mappings:
            low, high = max(first, mapping.first), min(last, mapping.last)
            if low < high:
                begin = mapping.part.begin + low - mapping.first
                yield _Mapped(low, high, _Part(mapping.part.file, begin, begin + high - low))


def _bytes_once(parts: set[_Part]) -> int:
    """How many bytes the parts are together, those that several have counted once."""
    total = 0
    behind: tuple[tuple[str, str], int] = (("", ""), 0)
    for part in sorted(parts):
        begin = max(part.begin, behind[1]) if part.file == behind[0] else part.begin
        if begin < part.end:
            total += part.end - begin
            behind = part.file, part.end
    return total
