"""What the models that this process has loaded cost it."""

from __future__ import annotations

from typing import NamedTuple

from ray_zerocopy.monitoring import loads, metrics, record


class ModelMemory(NamedTuple):
    """One loaded model, as `memory_stats` shows it. Figures of pages count whole ones."""

    model: str
    """What it is called: its class, and where it is in its pipeline."""
    source: loads.Source
    """Where its weights are shared: "store", "keeper" (a model that has a name), "file" or "checkpoint"."""
    origin: str | None
    """The name or the path that it was loaded from, where it has one."""
    nbytes: int
    """Bytes of its weights."""
    shared_bytes: int
    """Bytes of the mapped pages that this process has not written to: they are the node's one copy."""
    copied_bytes: int
    """Of `nbytes`, what is a private copy, since it could not be shared."""
    private_copy_reason: str | None
    """Why; None: nothing was copied."""
    diverged_bytes: int
    """Bytes of the mapped pages that this process has written to: its own, in memory or in swap."""
    resident_bytes: int
    """Bytes of the mapped pages that this process has used, or prefaulted: what they add to its resident size."""
    page_table_bytes: int
    """What the process's page table takes for them: an estimate (8 bytes a page, in tables of a page)."""

    @property
    def private_bytes(self) -> int:
        """Bytes that are this process's alone: copied and diverged."""
        return self.copied_bytes + self.diverged_bytes


class MemoryStats(NamedTuple):
    """What `memory_stats` returns: the loaded models, the oldest load first. The totals are in bytes, as theirs."""

    models: tuple[ModelMemory, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(model.nbytes for model in self.models)

    @property
    def shared_bytes(self) -> int:
        """Bytes of all mapped pages that this process has not written to; a model loaded twice counts twice."""
        return sum(model.shared_bytes for model in self.models)

    @property
    def copied_bytes(self) -> int:
        """Bytes of all private copies."""
        return sum(model.copied_bytes for model in self.models)

    @property
    def diverged_bytes(self) -> int:
        """Bytes of all mapped pages that this process has written to."""
        return sum(model.diverged_bytes for model in self.models)

    @property
    def private_bytes(self) -> int:
        """Bytes that are this process's alone: copied and diverged."""
        return sum(model.private_bytes for model in self.models)

    @property
    def page_table_bytes(self) -> int:
        """What the page table takes for all mapped pages: an estimate."""
        return sum(model.page_table_bytes for model in self.models)


def memory_stats() -> MemoryStats:
    """What the models that this process has loaded cost it, now.

    Counted are the pipelines that `load()` of the actor wrappers, `ray_zerocopy.load` and `load_checkpoint` gave, for
    as long as anything of them lives, and the models that a worker keeps for its tasks. Weights on a GPU are not:
    `torch.cuda.memory_stats` has those.

    The kernel is asked about each page (some milliseconds a GB). The gauges in Ray's metrics are set to what it says.
    May be called from any thread; Ray is neither needed nor started.

    Raises:
        OSError: the kernel does not tell: `/proc/self/pagemap` cannot be read.
    """
    record.renew()
    found: dict[int, ModelMemory] = {}
    for number, (load, view) in loads.living().items():
        stats = view.stats()
        found[number] = ModelMemory(
            *load,
            nbytes=stats.nbytes,
            shared_bytes=stats.shared_bytes,
            copied_bytes=stats.copied_bytes,
            private_copy_reason=stats.private_copy_reason or None,
            diverged_bytes=stats.diverged_bytes,
            resident_bytes=stats.resident_bytes,
            page_table_bytes=stats.page_table_bytes,
        )
    metrics.note_seen(
        {n: metrics.Figures(m.model, m.shared_bytes, m.copied_bytes, m.diverged_bytes) for n, m in found.items()}
    )
    return MemoryStats(tuple(found.values()))
