"""safetensors: the weights lie in files that each worker maps, and puts into a model without weights (`assign=True`).

The model without weights is made in the driver and sent through Ray, which is faster than building it in each worker.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.models import Case, modules_of
from benchmarks.systems import Call


class _Files:
    """What a worker is sent. Its owner's copy deletes the files when it goes."""

    def __init__(self, pipeline: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=os.environ.get("BENCHMARKS_FOLDER")))
        weakref.finalize(self, shutil.rmtree, self.folder)
        self.tied: list[dict[str, str]] = []
        without_weights: dict[int, Any] = {}
        for number, module in enumerate(modules_of(pipeline)):
            state = module.state_dict(keep_vars=True)
            without_weights |= {id(tensor): _on_meta(tensor) for tensor in state.values()}
            name_of = {(tensor.data_ptr(), tensor.shape): name for name, tensor in reversed(state.items())}
            owners = {name: name_of[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}
            self.tied.append({name: owner for name, owner in owners.items() if name != owner})
            kept = {name: tensor.detach() for name, tensor in state.items() if name not in self.tied[-1]}
            save_file(kept, self.folder / f"{number}.safetensors")
        self.skeleton = ray.put(copy.deepcopy(pipeline, without_weights))

    def __reduce__(self) -> tuple[Any, ...]:
        return _loader, (self.skeleton, self.folder, self.tied)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _loader(skeleton: ray.ObjectRef[Any], folder: Path, tied: list[dict[str, str]]) -> Callable[[], Any]:
    def load() -> Any:
        pipeline = ray.get(skeleton)
        for number, module in enumerate(modules_of(pipeline)):
            state = load_file(folder / f"{number}.safetensors")
            state |= {name: state[owner] for name, owner in tied[number].items()}
            module.load_state_dict(state, assign=True)
            module.eval()
        return pipeline

    return load


@ray.remote
def _call(load: Any, *inputs: torch.Tensor) -> Any:
    with torch.no_grad():
        return load()(*inputs)


class SafetensorsFiles:
    task_per_model = False

    def share(self, pipeline: Any, case: Case) -> Any:
        return _Files(pipeline)

    def load(self, shared: Any) -> Any:
        return shared()

    def for_tasks(self, pipeline: Any, case: Case) -> Call:
        files = _Files(pipeline)
        return lambda *inputs: ray.get(_call.remote(files, *inputs))


SYSTEM = SafetensorsFiles()
