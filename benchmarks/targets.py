"""What this system is meant to reach, each within one run, and whether it did."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.figures import written
from benchmarks.file_formats import FORMATS
from benchmarks.file_formats import OURS as OUR_FILE
from benchmarks.models import CASES
from benchmarks.results import Results
from benchmarks.systems import OURS, PUBLISHED, RAY_FLAG, SYSTEMS

_NOISE = 1.05
_WRAP_TO_PUT = {"bert": 1.3, "minilm": 1.5}
_FILE_LOAD_SECONDS = {"bert": 8e-3, "linears-2gb": 3e-3}


class Verdict(NamedTuple):
    """One target, what was measured, and whether that reaches it."""

    what: str
    target: str
    measured: str
    reached: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """Every target that the run has the figures for."""
    for other in (PUBLISHED, RAY_FLAG):
        yield from _ratio(results, "bert", "load_seconds", other, 0.6, "Load, BERT-base")
    ours, published = (results.median("bert-traced", system, "load_seconds") for system in (OURS, PUBLISHED))
    if ours and published:
        faster = published / ours
        yield Verdict(
            "Load, BERT-base traced, compared with ray-zerocopy 0.2.0", "≥ 40 x faster", f"{faster:.0f} x", faster >= 40
        )
    large, small = (results.median(case, OURS, "load_seconds") for case in ("linears-2gb", "linears-31mb"))
    if large and small:
        ratio = large / small
        yield Verdict(
            "Load, 2 GB in 30 layers compared with 31 MB in 30 layers", "≈ 1 x", f"{ratio:.2f} x", ratio <= 1.5
        )
    eager = [case for case in results.cases() if not CASES[case].scripted]
    for case in eager:
        yield from _limit(results, case, "first_to_steady", 1.15, "First call ÷ steady call")
    for case, limit in (("bert", 1.5e-3), ("bert-traced", 2e-3)):
        yield from _limit(results, case, "warm_overhead_seconds", limit, "A warm task call's overhead")
    for case in results.cases():
        limit = _WRAP_TO_PUT.get(case, 1.1)
        yield from _limit(results, case, "wrap_to_put", limit, "Wrapping ÷ one `ray.put` of an array of that size")
        private = results.median(case, OURS, "wrap_private_bytes")
        result = results.get(case, OURS)
        if private is not None and result is not None:
            share = private / result["weights"]
            what = f"Wrapping, extra private memory, {CASES[case].title}"
            yield Verdict(what, "< 2 % of the weights", f"{round(share, 3) + 0.0:.1%}", share < 0.02)
    for case in results.cases():
        memory, allowed = results.node_memory(case, OURS), results.allowed_node_memory(case, OURS, 16)
        if 16 in memory and allowed:
            ratio = memory[16] / allowed
            what = f"Node memory with 16 workers ÷ (weights + 16 x (an empty worker + 2 %)), {CASES[case].title}"
            yield Verdict(what, "≤ 1.0 x", f"{ratio:.2f} x", ratio <= 1.0)
    yield from _file_verdicts(results)
    for case in eager:
        yield from _limit(results, case, "steady_to_private", _NOISE, "Steady call ÷ a private copy's")
    for case in results.cases():
        leaks = (results.get(case, OURS) or {}).get("write_leaks")
        if leaks is not None:
            yield Verdict(f"A write leaks to other workers, {CASES[case].title}", "no", leaks, leaks == "no")


def _file_verdicts(results: Results) -> Iterator[Verdict]:
    for case in dict.fromkeys(result["case"] for result in results.files.loads):
        title = CASES[case].title
        load = results.file_median(case, OUR_FILE, "load_seconds")
        first = results.file_median(case, OUR_FILE, "first_to_steady")
        limit = _FILE_LOAD_SECONDS.get(case)
        if load and limit:
            what, target = f"Load from a file, {title}", f"≤ {written('_seconds', limit)}"
            yield Verdict(what, target, written("_seconds", load), load <= limit)
        peers = [name for name in FORMATS if name != OUR_FILE and results.file_median(case, name, "load_seconds")]
        for name in peers if load is not None else ():
            faster = (results.file_median(case, name, "load_seconds") or 0) / load
            least = 8 if CASES[case].scripted else 15
            what = f"Load from a file, {title}, compared with {FORMATS[name].title}"
            yield Verdict(what, f"≥ {least} x faster", f"{faster:.1f} x", faster >= least)
        if first:
            yield Verdict(f"First call ÷ steady call, from a file, {title}", "≤ 1.10", f"{first:.2f}", first <= 1.1)

    cpp = results.files.cpp
    if cpp:
        load, peer = (statistics.median(cpp[name]["load_seconds"]) for name in (OUR_FILE, "torch_jit"))
        own, theirs = (statistics.median(cpp[name]["private_bytes"]) for name in (OUR_FILE, "torch_jit"))
        what = "BERT-base, traced, in C++, compared with `torch::jit::load`"
        yield Verdict(f"Load from a file, {what}", "≥ 8 x faster", f"{peer / load:.1f} x", peer / load >= 8)
        yield Verdict(f"Private memory, {what}", "≤ 2 %", f"{own / theirs:.1%}", own / theirs <= 0.02)
    checkpoint = results.files.checkpoint
    if checkpoint:
        rate = statistics.median(checkpoint["cat_to_checkpoint"])
        what = "From a checkpoint to the store, rate ÷ that of `cat` into shared memory"
        yield Verdict(what, "≥ 0.9", f"{rate:.2f}", rate >= 0.9)


def _ratio(results: Results, case: str, figure: str, other: str, limit: float, what: str) -> Iterator[Verdict]:
    ours, theirs = results.median(case, OURS, figure), results.median(case, other, figure)
    if ours and theirs:
        ratio = ours / theirs
        yield Verdict(
            f"{what}, compared with that of {SYSTEMS[other].title}", f"≤ {limit} x", f"{ratio:.2f} x", ratio <= limit
        )


def _limit(results: Results, case: str, figure: str, limit: float, what: str) -> Iterator[Verdict]:
    median = results.median(case, OURS, figure)
    if median is not None:
        target = f"≤ {written(figure, limit)}"
        yield Verdict(f"{what}, {CASES[case].title}", target, written(figure, median), median <= limit)
