"""What all processes of a cluster have loaded: each node looks at its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_zerocopy.monitoring import processes
from ray_zerocopy.monitoring.processes import NodeMemory

_SECONDS = 30.0
"""How long a node has for its answer; a worker may have to start for it."""


class ClusterMemory(NamedTuple):
    """What the processes of the cluster's living nodes have loaded."""

    nodes: tuple[NodeMemory, ...]
    silent: tuple[str, ...]
    """The addresses of those nodes that did not answer in time, or had an error, which is in brackets behind it."""


def cluster_memory() -> ClusterMemory:
    """Looks at each living node.

    A task on the node asks its kernel. It needs no CPU of the cluster, so that a busy one can be looked at, and the
    processes themselves are not asked: they may be as busy.
    """
    tasks = {}
    for node in ray.nodes():
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look: Any = _look.options(scheduling_strategy=pinned)
            tasks[look.remote(node["NodeID"], node["NodeManagerAddress"])] = node["NodeManagerAddress"]
    done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS)
    seen, silent = [], [tasks[task] for task in late]
    for task in late:
        ray.cancel(task)
    for task in done:
        try:
            seen.append(ray.get(task))
        except RayError as error:  # the node has gone meanwhile, or cannot look
            silent.append(f"{tasks[task]} ({str(error).strip().splitlines()[-1]})")
    return ClusterMemory(tuple(sorted(seen)), tuple(silent))


@ray.remote(num_cpus=0, max_retries=1)
def _look(node: str, address: str) -> NodeMemory:
    return processes.of_node(node, address)
