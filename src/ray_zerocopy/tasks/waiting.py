"""Waiting for a task's result: for as long as the task needs, but not in silence for a CPU that nobody gives back."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RaySystemError, RayTaskError

_log = logging.getLogger("ray_zerocopy")

FIRST_WORD_SECONDS = 10.0
"""How long a task may take before its caller looks for what could keep it from starting."""


def result_of(task: ray.ObjectRef[Any]) -> Any:
    """What a task that needs one CPU returns.

    A warning of the logger `ray_zerocopy` says that no node has a CPU free: after ten seconds, and then each time that
    the task has taken twice as long.

    Raises:
        RuntimeError: no node has a CPU at all, and no autoscaler can add one.
        Exception: what the task raised.
    """
    try:
        return ray.get(task, timeout=FIRST_WORD_SECONDS)
    except GetTimeoutError as error:
        if isinstance(error, RayTaskError):  # the task's own
            raise
    seconds = FIRST_WORD_SECONDS
    began = time.monotonic() - seconds
    while True:
        _look_for_obstacle(task, time.monotonic() - began)
        # Nothing is brought here yet: that would begin anew after each timeout.
        if ray.wait([task], timeout=seconds, fetch_local=False)[0]:
            return ray.get(task)
        seconds *= 2


def _look_for_obstacle(task: ray.ObjectRef[Any], waited: float) -> None:
    total, free = (resources.get("CPU", 0.0) for resources in (ray.cluster_resources(), ray.available_resources()))
    if total == 0 and not _may_be_autoscaled():
        ray.cancel(task)
        raise RuntimeError(
            "A model's call runs as a Ray task that needs one CPU, and no node of the cluster has any. "
            "Add a node with CPUs, start Ray with num_cpus of at least 1, or call wrapper.options(num_cpus=0), or the "
            "wrapper in an actor, whose model calls need no CPU of the cluster."
        )
    if free < 1:
        _log.warning(
            "A model's call has taken %.0f s so far. It runs as a Ray task that needs one CPU, and no node has one "
            "free (the cluster has %g CPUs, %g of them free). If the call itself is not that long, its task has not "
            "started: it waits until actors or other tasks end. Give actors fewer CPUs, add a node, or call "
            "wrapper.options(num_cpus=0), or the wrapper in an actor, whose model calls need no CPU of the cluster.",
            waited,
            total,
            free,
        )


def _may_be_autoscaled() -> bool:
    """Whether an autoscaler may add nodes: it does so where it has a configuration, and else only reports.

    Ray has no public way to ask. What it does not tell is taken for yes. Without a configuration it names each node's
    type after the node.
    """
    try:
        from ray._private.state import state
        from ray.experimental.internal_kv import _internal_kv_get

        if state.get_max_resources_from_cluster_config() is not None:
            return True
        types = json.loads(_internal_kv_get("__autoscaling_status"))["autoscaler_report"]["active_nodes"]
    except (ImportError, AttributeError, LookupError, RaySystemError, TypeError, ValueError):
        return True
    return not {f"node_{node['NodeID']}" for node in ray.nodes()}.issuperset(types)
