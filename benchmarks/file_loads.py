"""One process that loads a model from a file: what that takes it.

python -m benchmarks.file_loads FORMAT CASE FILE RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.file_formats import FORMATS
from benchmarks.memory import private_bytes
from benchmarks.models import CASES

_WARM_UP = 3
_STEADY_CALLS = 9


def measure(format_name: str, case_name: str, file: Path) -> dict[str, Any]:
    """Seconds of a load, of the first call, and of calls after it; and by how much this process's memory grew.

    The processor's seconds are those of all threads: on a busy machine they say more than those of the clock.

    Everything is imported, and a tiny model of the same kind (../tiny/FILE) was loaded and called before.
    """
    torch.set_num_threads(1)
    case, chosen = CASES[case_name], FORMATS[format_name].make()
    with torch.no_grad():
        tiny = chosen.load(file.parent.with_name("tiny") / file.name)
        for _ in range(_WARM_UP):
            tiny(*case.inputs)
        del tiny
        before = private_bytes()
        start, start_of_work = time.perf_counter(), time.process_time()
        pipeline = chosen.load(file)
        loaded, work = time.perf_counter(), time.process_time() - start_of_work
        pipeline(*case.inputs)
        called = time.perf_counter()
        private = private_bytes() - before
        steady = []
        for _ in range(_STEADY_CALLS + _WARM_UP):
            began = time.perf_counter()
            pipeline(*case.inputs)
            steady.append(time.perf_counter() - began)
    return {
        "load_seconds": loaded - start,
        "load_processor_seconds": work,
        "first_seconds": called - loaded,
        "steady_seconds": steady[_WARM_UP:],
        "private_bytes": private,
    }


if __name__ == "__main__":
    format_name, case_name, file, result = sys.argv[1:]
    Path(result).write_text(json.dumps(measure(format_name, case_name, Path(file))))
