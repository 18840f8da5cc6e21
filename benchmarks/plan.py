"""How much is measured: everything, or a subset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How often each figure is measured for one system and model."""

    workers: int
    """Actors that load the model, one after the other."""
    steady_calls: int
    """Calls of each worker, after its first."""
    wraps: int
    cold_calls: int
    warm_calls: int
    task_seconds: float
    """Warm calls stop after so long, once there are five."""
    throughput_seconds: float

    def store_bytes(self, weights: int) -> int:
        """A store for the shared image, one for each cold call, and what some systems store twice."""
        return int((self.cold_calls + 1.5) * weights) + (200 << 20)


MANY_WORKERS = Plan(
    workers=16, steady_calls=5, wraps=4, cold_calls=3, warm_calls=100, task_seconds=10, throughput_seconds=3
)
SOME_WORKERS = Plan(
    workers=4, steady_calls=7, wraps=3, cold_calls=3, warm_calls=50, task_seconds=5, throughput_seconds=2
)
LARGE = Plan(workers=4, steady_calls=5, wraps=3, cold_calls=1, warm_calls=20, task_seconds=5, throughput_seconds=2)
LOADS_ALONE = Plan(workers=3, steady_calls=5, wraps=3, cold_calls=0, warm_calls=0, task_seconds=0, throughput_seconds=0)
QUICK = Plan(workers=2, steady_calls=5, wraps=2, cold_calls=1, warm_calls=15, task_seconds=1.2, throughput_seconds=1)

FULL_PLANS = {
    "minilm": SOME_WORKERS,
    "bert": MANY_WORKERS,
    "bert-traced": SOME_WORKERS,
    "linears-2gb": LARGE,
    "gpt2": SOME_WORKERS,
    "pipeline": MANY_WORKERS,
    "linears-31mb": LOADS_ALONE,
}
"""In the order of a run. What most targets are about is not first: a machine that has just installed the packages is
still writing them to its disk."""

QUICK_CASES = ("minilm",)
QUICK_SYSTEMS = ("ray_zerocopy", "ray_put")


def plan_of(extent: str, case: str) -> Plan:
    """The plan for a case of a "full" or a "quick" run."""
    return QUICK if extent == "quick" else FULL_PLANS[case]
