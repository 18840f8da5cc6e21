"""One process that brings a checkpoint into Ray's object store: how fast, beside `cat` of its file into shared memory.

python -m benchmarks.checkpoint_loads CASE FILE RESULT.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
import torch

from benchmarks import store
from benchmarks.memory import anonymous_bytes
from benchmarks.models import CASES
from ray_zerocopy import ActorWrapper, load_checkpoint

_TURNS = 5
COPY = Path("/dev/shm") / f"checkpoint-{os.getpid()}"


def measure(case_name: str, file: Path) -> dict[str, list[float]]:
    """Seconds from the file to the store and of `cat`, in turn; by how much this process's anonymous memory grew."""
    samples: dict[str, list[float]] = {
        "checkpoint_seconds": [],
        "cat_seconds": [],
        "cat_to_checkpoint": [],
        "checkpoint_private_bytes": [],
    }
    size = file.stat().st_size
    ray.init("local", num_cpus=1, object_store_memory=size + (400 << 20), include_dashboard=False, log_to_driver=False)
    try:
        store.touch_all()
        for turn in range(_TURNS + 1):
            start = time.perf_counter()
            subprocess.run(f"cat '{file}' > {COPY}", shell=True, check=True)
            cat_seconds = time.perf_counter() - start
            COPY.unlink()
            with torch.device("meta"):
                module = CASES[case_name].build()
            before = anonymous_bytes()
            start = time.perf_counter()
            wrapper = ActorWrapper(load_checkpoint(module, file))
            seconds = time.perf_counter() - start
            private = anonymous_bytes() - before
            del wrapper, module
            store.wait_until_empty()
            if turn:  # the first of each is not counted
                samples["checkpoint_seconds"].append(seconds)
                samples["cat_seconds"].append(cat_seconds)
                samples["cat_to_checkpoint"].append(cat_seconds / seconds)
                samples["checkpoint_private_bytes"].append(private)
    finally:
        COPY.unlink(missing_ok=True)
        ray.shutdown()
    return samples


if __name__ == "__main__":
    case_name, file, result = sys.argv[1:]
    Path(result).write_text(json.dumps(measure(case_name, Path(file))))
