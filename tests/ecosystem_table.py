"""The table "what works, what is shared" of docs/ecosystem.md, by measurement.

PYTHONPATH=tests python -m ecosystem_table     measures everything that is installed and rewrites the table
"""

from __future__ import annotations

import gc
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ecosystem_cases import CASES, Case
from memory import bits, give_back_free_memory
from pipelines import Worker

import ray_zerocopy
from ray_zerocopy import ActorWrapper, TaskWrapper

PAGE = Path(__file__).parent.parent / "docs" / "ecosystem.md"
_BEGIN = "<!-- measured: `make ecosystem-table` rewrites what follows -->"
_END = "<!-- measured: until here -->"
_HEADER = """\
| Library | What is wrapped | In tasks | In actors | Saved and loaded | Its weights in a worker |
| --- | --- | --- | --- | --- | --- |"""


class Row(NamedTuple):
    """What was measured of a case."""

    in_tasks: bool
    in_actors: bool
    saved: bool
    private: float | None
    """Of the weights, how much is the worker's own after a use; None if no worker could load them."""

    def line(self, case: Case) -> str:
        """The case's line in the table."""
        works = ("yes" if outcome else "no" for outcome in (self.in_tasks, self.in_actors, self.saved))
        library = case.library if case.module is None else f"{case.library}{_MEASURED_WITH}{_torch_release()}"
        return f"| {library} | {case.what} | {' | '.join(works)} | {_share(self.private)} |"


_MEASURED_WITH = ", with torch "


def _torch_release() -> str:
    return torch.__version__.partition("+")[0]


def without_release(line: str) -> str:
    """A line of the table without the release of torch that it was measured with, if it names one."""
    return re.sub(rf"{_MEASURED_WITH}[^ ]+", "", line)


def _share(private: float | None) -> str:
    if private is None:
        return "not loaded"
    return "shared" if private < 0.2 else "partly shared" if private < 0.8 else "private"


def measured(case: Case, worker: Any) -> Row:
    """Wraps, loads, saves and uses a case in the running cluster; what it raises is printed.

    Args:
        case: what to measure.
        worker: a `Worker` that holds nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have, so that sums have one order
    try:
        return _measured(case, worker)
    finally:
        torch.set_num_threads(threads)


def _measured(case: Case, worker: Any) -> Row:
    pipeline = case.make(False)
    expected = exact(case.answer(pipeline))
    grown: list[float] = []

    def loaded_in_actor() -> bool:
        ray.get(worker.do.remote(_warm_up, case.make, case.answer))
        before = ray.get(worker.grown.remote())
        ray.get(worker.load.remote(ActorWrapper(pipeline)))
        outcome = exact(ray.get(worker.do.remote(case.answer))) == expected
        ray.get(worker.do.remote(give_back_free_memory))
        grown.append((ray.get(worker.grown.remote()) - before) / payload(pipeline))
        ray.get(worker.drop.remote())
        return outcome

    def loaded_from_file() -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.safetensors"
            ray_zerocopy.save(pipeline, path)
            return exact(ray.get(worker.do.remote(_answer_from_file, str(path), case.answer))) == expected

    def run_in_tasks() -> bool:
        wrapper = TaskWrapper(pipeline, case.methods)
        return all(exact(case.answer(wrapper)) == expected for _ in range(2))

    in_actors, saved, in_tasks = map(_attempt, (loaded_in_actor, loaded_from_file, run_in_tasks))
    return Row(in_tasks, in_actors, saved, grown[0] if grown else None)


def _warm_up(_: Any, make: Callable[[bool], Any], answer: Callable[[Any], Any]) -> None:
    """What any use of a library costs a worker once."""
    answer(make(True))
    gc.collect()
    give_back_free_memory(None)


def _answer_from_file(_: Any, path: str, answer: Callable[[Any], Any]) -> Any:
    return answer(ray_zerocopy.load(path))


def _attempt(outcome: Callable[[], bool]) -> bool:
    try:
        return outcome()
    except Exception:
        traceback.print_exc()
        return False


def payload(pipeline: Any) -> int:
    """The bytes that would be worth sharing."""
    from ray_zerocopy.image import freeze

    image = freeze(pipeline)
    return max(image.nbytes, len(image.skeleton(0).pickled))


def exact(answer: Any) -> Any:
    """An answer in which each tensor and array is its class, shape, dtype and bits."""
    if isinstance(answer, (torch.Tensor, np.ndarray)):
        return type(answer), tuple(answer.shape), str(answer.dtype), bits(answer)
    if isinstance(answer, Mapping):
        return {key: exact(value) for key, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [exact(value) for value in answer]
    return answer


def documented() -> list[str]:
    """The lines of the table as the page has them."""
    _, table, _ = _parts()
    return table.strip().splitlines()


def _parts() -> tuple[str, str, str]:
    before, rest = PAGE.read_text().split(_BEGIN)
    table, after = rest.split(_END)
    return before, table, after


def header() -> list[str]:
    """The lines above those of the cases."""
    return _HEADER.splitlines()


@contextmanager
def _cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, object_store_memory=700 << 20, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    lines = header()
    kept = documented()
    with _cluster():
        worker = Worker.remote()
        for case in CASES.values():
            if not case.is_here():
                lines += [
                    line for line in kept if without_release(line).startswith(f"| {case.library} | {case.what} |")
                ]
                continue
            row = measured(case, worker)
            lines.append(row.line(case))
            print(lines[-1], "" if row.private is None else f"{row.private:.3f}", flush=True)
    before, _, after = _parts()
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}")


if __name__ == "__main__":
    import conftest  # noqa: F401  which sets the environment that workers need

    main()
