"""Seeing that weights are shared: `memory_stats()`, Ray's metrics, and the view of a whole cluster."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from memory import own_bytes
from object_store import until
from pipelines import Classifier, TwoModels, Worker
from seen import BYTES, large, look, stats, write_10_mb
from torch import nn

import ray_zerocopy
from ray_zerocopy import ActorWrapper, TaskWrapper
from ray_zerocopy.__main__ import main
from ray_zerocopy.monitoring import metrics, record
from ray_zerocopy.monitoring.cluster import ClusterMemory, cluster_memory
from ray_zerocopy.monitoring.processes import ProcessModel
from ray_zerocopy.monitoring.top import table

PAGE = os.sysconf("SC_PAGE_SIZE")
DASHBOARD = Path(__file__).parent.parent / "docs" / "grafana" / "ray_zerocopy.json"


@pytest.fixture(scope="module")
def worker(new_cluster: None) -> Any:
    return Worker.remote(large)


@pytest.fixture
def loading(worker: Any) -> Iterator[Any]:
    """A worker that has loaded `large`."""
    wrapper = ActorWrapper(large())
    ray.get(worker.load.remote(wrapper))
    yield worker
    ray.get(worker.drop.remote())


def command(*arguments: str) -> str:
    address = ray.get_runtime_context().gcs_address
    program = [sys.executable, "-m", "ray_zerocopy", "--address", address, *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=200, check=True).stdout


def seen_in(process: int) -> list[ProcessModel]:
    return [model for node in cluster_memory().nodes for model in node.models if model.process == process]


def test_stats_are_what_the_kernel_says_of_a_workers_memory_before_and_after_a_write_of_10_mb(loading: Any) -> None:
    found, smaps = ray.get(loading.do.remote(look))
    (model,) = found.models
    assert (model.model, model.source, model.origin) == ("pipeline (Sequential)", "store", None)
    assert model.nbytes == BYTES
    assert (model.copied_bytes, model.private_copy_reason, model.diverged_bytes) == (0, None, 0)
    assert BYTES <= model.shared_bytes == smaps.size <= BYTES + 2 * PAGE
    assert model.resident_bytes == smaps.resident
    assert 0 < model.page_table_bytes < 0.01 * BYTES
    before = own_bytes(ray.get(loading.pid.remote()))

    ray.get(loading.do.remote(write_10_mb))
    found, smaps = ray.get(loading.do.remote(look))
    (model,) = found.models
    assert model.diverged_bytes == found.private_bytes == smaps.private_dirty
    assert 10e6 <= model.diverged_bytes <= 10e6 + 2 * PAGE
    assert model.shared_bytes + model.private_bytes == smaps.size
    assert own_bytes(ray.get(loading.pid.remote())) - before == pytest.approx(model.private_bytes, abs=0.02 * BYTES)


def test_the_view_of_the_cluster_shows_each_worker_what_diverged_in_it_and_what_it_would_cost_without(
    loading: Any,
) -> None:
    other = Worker.remote()
    ray.get(other.load.remote(ActorWrapper(large())))  # as another object: nothing in common
    ray.get(loading.do.remote(write_10_mb))
    one, two = ray.get([loading.pid.remote(), other.pid.remote()])
    (node,) = json.loads(command("top", "--json"))["nodes"]
    assert node["node"] == ray.get_runtime_context().get_node_id()
    models = {model["process"]: model for model in node["models"]}
    assert len(models) == len(node["models"])  # one model each, and no process of the command's own
    assert [models[pid]["model"] for pid in (one, two)] == ["pipeline (Sequential)"] * 2
    assert [models[pid]["nbytes"] for pid in (one, two)] == [BYTES] * 2
    assert 10e6 <= models[one]["diverged_bytes"] == models[one]["private_bytes"] <= 10e6 + 2 * PAGE
    assert models[two]["diverged_bytes"] == 0
    assert models[one]["title"].startswith("ray::Worker")
    assert node["cost_without_bytes"] == sum(model["nbytes"] for model in node["models"])
    assert node["one_copy_bytes"] == pytest.approx(2 * BYTES, rel=0.01)
    assert node["cost_bytes"] == pytest.approx(2 * BYTES + 10e6, rel=0.01)

    ray.kill(other)
    assert until(lambda: not seen_in(two))


def test_workers_of_one_model_are_seen_to_have_one_copy(worker: Any) -> None:
    wrapper = ActorWrapper(large())
    workers = [worker, Worker.remote()]
    ray.get([each.load.remote(wrapper) for each in workers])
    (node,) = cluster_memory().nodes
    assert node.one_copy_bytes == pytest.approx(BYTES, rel=0.01)
    assert node.cost_without_bytes == 2 * BYTES
    head, *rows = table(ClusterMemory((node,), ())).splitlines()
    assert head.split() == ["NODE", "PID", "PROCESS", "MODEL", "FROM", "SHARED", "PRIVATE", "DIVERGED", "WITHOUT"]
    assert [row.split()[-4:] for row in rows[:2]] == [["83.9", "0.0", "0.0", "83.9"]] * 2
    assert "2 processes, 84." in rows[-1]
    assert "without sharing 167.8 MB" in rows[-1]
    ray.get([each.drop.remote() for each in workers])
    (node,) = cluster_memory().nodes
    assert node.models == ()
    assert table(ClusterMemory((node,), ("10.0.0.9",))).splitlines() == [
        "No process of 1 node has a model loaded.",
        "10.0.0.9 did not answer",
    ]


def test_what_a_worker_keeps_for_tasks_is_seen_until_it_is_evicted(new_cluster: None) -> None:
    wrapper = TaskWrapper(large())
    wrapper(torch.zeros(1, 2048))
    (node,) = cluster_memory().nodes
    assert [(model.model, model.source, model.nbytes) for model in node.models] == [
        ("pipeline: Sequential", "store", BYTES)
    ]
    del wrapper
    assert until(lambda: not cluster_memory().nodes[0].models)


HEAD = sum(parameter.nbytes for parameter in Classifier().parameters())


def partly_private() -> ActorWrapper[TwoModels]:
    return ActorWrapper(TwoModels(), model_attr_names=("encoder",))


def test_what_is_a_private_copy_is_seen_with_the_reason(worker: Any) -> None:
    ray.get(worker.load.remote(partly_private()))
    (model,) = ray.get(worker.do.remote(stats)).models
    assert HEAD <= model.copied_bytes == model.private_bytes < model.nbytes
    assert PAGE <= model.shared_bytes <= 2 * PAGE
    assert "private memory" in model.private_copy_reason
    assert model.private_copy_reason in table(cluster_memory())
    ray.get(worker.drop.remote())


def test_a_model_that_has_a_name_is_seen_by_it(worker: Any) -> None:
    with ActorWrapper(large(), name="seen") as wrapper:
        ray.get(worker.load.remote(wrapper))
        (model,) = ray.get(worker.do.remote(stats)).models
        assert (model.source, model.origin, model.nbytes) == ("keeper", "seen", BYTES)
        ray.get(worker.drop.remote())
        assert ray.get(worker.do.remote(stats)).models == ()


def prometheus() -> list[str]:
    """The lines of this package in what the node exports."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        return [line for line in page.read().decode().splitlines() if line.startswith("ray_zerocopy_")]


def test_rays_own_metrics_have_what_is_loaded_how_long_it_took_and_why_copies_were_made(loading: Any) -> None:
    small = Worker.remote()
    ray.get(small.load.remote(partly_private()))
    ray.get(loading.do.remote(write_10_mb))
    (model,) = ray.get(loading.do.remote(stats)).models

    def values(name: str, *tags: str) -> list[float]:
        lines = [line for line in prometheus() if line.startswith(f"ray_{name}{{") and all(t in line for t in tags)]
        return [float(line.rsplit(" ", 1)[1]) for line in lines]

    def are_there() -> bool:
        ray.get([loading.do.remote(stats), small.do.remote(stats)])  # Ray forgets gauges that are not set again
        of_model = 'model="pipeline (Sequential)"'
        return (
            model.shared_bytes in values(metrics.SHARED, of_model)
            and model.private_bytes in values(metrics.PRIVATE, of_model)
            and model.diverged_bytes in values(metrics.DIVERGED, of_model)
            and sum(values(f"{metrics.LOADS}_count", 'source="store"')) >= 2
            and sum(values(f"{metrics.COPIES}_total", 'reason="not_shared"')) >= 1
        )

    assert until(are_there, 60), prometheus()
    seconds = sum(values(f"{metrics.LOADS}_sum", 'source="store"'))
    assert 0 < seconds < 60
    ray.kill(small)


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def asked() -> list[tuple[set[str], set[str]]]:
    """Of each query of the dashboard: its metrics, and the labels that it, or the legend of its lines, names."""
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    found = []
    for target in targets:
        query = target["expr"]
        labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        labels |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=|!=|=~|!~)", query))
        legend = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        found.append((set(re.findall(r"\bray_\w+", query)), labels.union(legend)))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            ((metric, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"]["query"])
            found.append(({metric}, {label}))
    return found


def test_every_metric_and_label_that_the_dashboard_for_grafana_asks_for_is_exported(loading: Any) -> None:
    small = Worker.remote()
    ray.get(small.load.remote(partly_private()))

    def missing() -> list[str]:
        ray.get([loading.do.remote(stats), small.do.remote(stats)])  # Ray forgets gauges that are not set again
        exported: dict[str, set[str]] = {}
        for line in prometheus():
            name, labels = line.split("{", 1)
            exported.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        absent = [metric for metrics, _ in asked() for metric in metrics if metric not in exported]
        return absent or [
            f"{label} of {metric}"
            for metrics, labels in asked()
            for metric in metrics
            for label in labels - exported[metric]
        ]

    assert all(metrics and labels for metrics, labels in asked())
    assert until(lambda: not missing(), 60), missing()
    ray.kill(small)


def test_the_dashboard_for_grafana_is_laid_out_without_overlaps_and_names_no_data_source() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        own = {(column, row) for column in columns for row in rows}
        assert columns.stop <= 24
        assert not cells & own, panel["title"]
        cells |= own
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


def test_the_dashboard_for_grafana_counts_what_a_new_worker_did_before_it_was_first_seen() -> None:
    # A worker loads its model once: its counter is 1 when Prometheus first sees it, no rise to these functions.
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    assert not [query for query in queries if re.search(r"\bi?(rate|increase|delta)\(", query)]


def new_loads() -> list[Any]:
    gc.collect()
    return list(ray_zerocopy.memory_stats().models)


def own_records() -> int:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith("/memfd:ray_zerocopy.loads.1") for link in links)


@pytest.fixture
def path(tmp_path: Path) -> str:
    where = str(tmp_path / "model.safetensors")
    ray_zerocopy.save(nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)), where)
    return where


def test_files_and_checkpoints_are_seen_as_long_as_anything_of_them_lives_and_leave_nothing(path: str) -> None:
    before, descriptors = new_loads(), len(os.listdir("/proc/self/fd"))
    model = ray_zerocopy.load(path)
    module = ray_zerocopy.load_checkpoint(nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)), path)
    file, checkpoint = new_loads()[len(before) :]
    assert (file.model, file.source, file.origin) == ("pipeline (Sequential)", "file", path)
    assert (checkpoint.model, checkpoint.source, checkpoint.origin) == ("Sequential", "checkpoint", path)
    assert file.copied_bytes == checkpoint.copied_bytes == 0
    assert file.shared_bytes >= file.nbytes == 2 * (512 * 512 + 512) * 4
    recorded = record.of_process(os.getpid())
    assert recorded is not None
    assert [entry.source for entry in recorded.entries[-2:]] == ["file", "checkpoint"]
    weight = model[0].weight
    del model, module
    assert [load.source for load in new_loads()[len(before) :]] == ["file"]  # which the weight is a part of
    del weight
    assert new_loads() == before
    assert own_records() == (1 if before else 0)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_the_record_of_many_threads_that_load_look_and_drop_is_what_lives(path: str) -> None:
    kept: list[Any] = []

    def work() -> None:
        for _ in range(100):
            loaded = ray_zerocopy.load(path)
            assert path in [load.origin for load in ray_zerocopy.memory_stats().models]
            del loaded
        kept.append(ray_zerocopy.load(path))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loads = new_loads()
    recorded = record.of_process(os.getpid())
    assert recorded is not None
    assert sorted(entry.origin or "" for entry in recorded.entries) == sorted(load.origin or "" for load in loads)
    assert [load.origin for load in loads].count(path) == len(kept) == 4
    assert own_records() == 1


HOSTILE = {
    "nothing": b"",
    "no text": b"\xff\xfe\n",
    "no JSON": b"}\n",
    "a head that is no object": b"[]\n",
    "a head without a process": b'{"node": null}\n',
    "nested deeply": b"[" * 100_000 + b"\n",
    "an entry of nothing": b'{"process": 1, "node": null}\n[]\n',
    "an entry with too few fields": b'{"process": 1, "node": null}\n[1, "a model"]\n',
    "numbers below zero": b'{"process": 1, "node": null}\n[1, "m", "store", null, -1, 0, null, []]\n',
    "numbers that no machine has": b'{"process": 1, "node": null}\n[1, "m", "store", null, 1e99, 0, null, []]\n',
    "pages that are none": b'{"process": 1, "node": null}\n[1, "m", "store", null, 1, 0, null, [[1]]]\n',
    "names that are none": b'{"process": 1, "node": null}\n[1, ["m"], "store", null, 1, 0, null, []]\n',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_another_process_writes_into_its_record_is_passed_over_if_it_cannot_be(content: bytes) -> None:
    program = (
        "import os, sys\n"
        "record = os.memfd_create(sys.argv[1])\n"
        "os.write(record, sys.stdin.buffer.read())\n"
        "print(flush=True)\n"
        "os.read(int(sys.argv[2]), 1)\n"
    )
    reader, writer = os.pipe()
    command = [sys.executable, "-c", program, "ray_zerocopy.loads.1", str(reader)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[reader]) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(content)
        other.stdin.close()
        other.stdout.readline()
        found = record.of_process(other.pid)
        os.close(reader)
        os.close(writer)
    assert found is None or found.entries == ()


def test_a_forked_child_that_drops_a_model_leaves_its_parents_record_as_it_is(path: str) -> None:
    loaded = [ray_zerocopy.load(path)]
    before = record.of_process(os.getpid())
    child = os.fork()
    if child == 0:
        is_inherited = record.of_process(os.getpid()) == before._replace(process=os.getpid())
        loaded.clear()
        own = record.of_process(os.getpid())
        is_dropped = own is None or path not in [entry.origin for entry in own.entries]
        os._exit(0 if is_inherited and is_dropped else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert record.of_process(os.getpid()) == before
    assert path in [load.origin for load in new_loads()]


def test_a_process_without_ray_is_not_made_to_import_it_by_looking(path: str) -> None:
    program = (
        f"import sys, ray_zerocopy; model = ray_zerocopy.load({path!r}); (one,) = ray_zerocopy.memory_stats().models; "
        "print(one.source, one.diverged_bytes, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split() == ["file", "0", "False"]


def test_an_interval_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for interval in ("0", "-1", "inf", "soon"):
        with pytest.raises(SystemExit):
            main(["top", "--interval", interval])
        assert "argument --interval" in capsys.readouterr().err
