"""Several roots in one image: each takes the segments and the TorchScript archives that it needs, and no others."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import ray
import torch
from memory import bits, weight_bytes
from pipelines import Worker
from torch import nn
from torch.utils.dlpack import from_dlpack

from ray_zerocopy import ActorWrapper
from ray_zerocopy.image import Image, freeze_each, thaw, thaw_in_view
from ray_zerocopy.transport import store

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def model(width: int = 64) -> nn.Module:
    """Large and small weights: the large have segments of their own, the small are packed."""
    return nn.Sequential(nn.Linear(width, 512), nn.LayerNorm(512), nn.Linear(512, width)).eval()


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval())


def mapped(image: Image, skeleton: int) -> int:
    view = thaw_in_view(image, skeleton=skeleton).view
    return 0 if view is None else view.nbytes


def test_a_root_maps_its_own_bytes_of_ten() -> None:
    models = [model() for _ in range(10)]
    image = freeze_each({str(i): m for i, m in enumerate(models)})
    for skeleton, original in enumerate(models):
        assert weight_bytes(original) <= mapped(image, skeleton) < weight_bytes(original) + 1024
        assert bits(thaw(image, skeleton=skeleton)(X)) == bits(original(X))


def test_what_two_roots_share_is_in_the_image_once_and_both_map_it() -> None:
    one, other = model(), model()
    other[0].weight = one[0].weight
    other[1] = one[1]
    image = freeze_each({"one": one, "other": other})
    assert image.nbytes < weight_bytes(one) + weight_bytes(other[2]) + weight_bytes(other[0]) - 512 * 64 * 4 + 2048
    for skeleton, original in enumerate((one, other)):
        assert weight_bytes(original) <= mapped(image, skeleton) < weight_bytes(original) + 2048
        assert bits(thaw(image, skeleton=skeleton)(X)) == bits(original(X))


def test_a_root_without_weights_maps_nothing() -> None:
    image = freeze_each({"model": model(), "words": ["a", "b"]})
    assert thaw_in_view(image, skeleton=1).view is None


def test_arrays_and_buffers_of_one_root_are_not_mapped_for_another() -> None:
    array = np.random.default_rng(0).random(100_000)
    image = freeze_each({"model": model(), "array": {"array": array, "bytes": bytearray(300_000)}})
    assert mapped(image, 0) < weight_bytes(model()) + 1024
    assert mapped(image, 1) < array.nbytes + 300_000
    assert bits(thaw(image, skeleton=1)["array"]) == bits(array)


def test_a_root_maps_and_imports_its_own_script_modules_only() -> None:
    modules = [scripted() for _ in range(3)]
    image = freeze_each({str(i): m for i, m in enumerate(modules)})
    assert image.content.archive_count == 3
    only_second = unreadable_but(image, 1)
    assert mapped(only_second, 1) < weight_bytes(modules[1]) + 1024
    assert bits(thaw(only_second, skeleton=1)(X)) == bits(modules[1](X))


def unreadable_but(image: Image, skeleton: int) -> Image:
    """The image, all its archives but that of one root spoilt."""
    own = image.skeleton(skeleton).scripts
    spoilt = {image.content.archive(i)[0] for i in range(image.content.archive_count) if i != own}
    parts = image.parts
    blobs = (bytes(len(blob)) if number in spoilt else blob for number, blob in enumerate(parts.blobs))
    return Image.of(dataclasses.replace(parts, blobs=tuple(blobs)))


def test_the_script_modules_of_a_root_are_one_archive_which_roots_with_the_same_modules_share() -> None:
    modules = [scripted(), scripted(), {"deep": scripted()}]
    assert freeze_each({"pipeline": modules, "reversed": modules[::-1]}).content.archive_count == 1
    image = freeze_each({"one": modules[0], "other": modules[1]})
    assert image.content.archive_count == 2
    assert [len(image.scripts(number).modules) for number in range(2)] == [1, 1]


def test_a_root_that_is_part_of_another_roots_script_module_takes_that_part_only() -> None:
    whole = torch.jit.script(nn.Sequential(nn.Linear(64, 1024), nn.Linear(1024, 64)).eval())
    image = freeze_each({"whole": whole, "part": getattr(whole, "1")})
    assert weight_bytes(whole) <= mapped(image, 0) < weight_bytes(whole) + 1024
    assert weight_bytes(getattr(whole, "1")) <= mapped(image, 1) < 0.6 * weight_bytes(whole)
    x = torch.randn(2, 1024)
    assert bits(thaw(image, skeleton=1)(x)) == bits(getattr(whole, "1")(x))


def test_tied_weights_of_script_modules_are_tied_again_in_a_root_that_has_both() -> None:
    eager = nn.Linear(64, 64).eval()
    one, other = torch.jit.script(eager), torch.jit.freeze(torch.jit.script(eager))
    image = freeze_each({"both": [one, other], "one": one, "other": other})
    assert image.content.archive_count == 3
    assert image.nbytes < weight_bytes(eager) + 128
    both = thaw(image)
    before = bits(both[1](X))
    with torch.no_grad():
        both[0].weight.add_(1)
    assert bits(both[1](X)) == bits(both[0](X)) != before


def test_script_modules_with_a_submodule_in_common_share_it_again() -> None:
    inner = scripted()
    one, other = torch.jit.script(nn.Sequential(inner)), torch.jit.script(nn.Sequential(inner))
    image = freeze_each({"both": [one, other], "one": one, "other": other})
    both = thaw(image)
    with torch.no_grad():
        next(both[0].parameters()).zero_()
    assert not next(both[1].parameters()).any()


@torch.jit.script
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> None:
        self.n += 1


class Gives(nn.Module):
    def forward(self) -> Counter:
        return Counter()


class Takes(nn.Module):
    def forward(self, counter: Counter) -> int:
        counter.add()
        return counter.n


def test_script_modules_that_hand_objects_to_each_other_still_can() -> None:
    pipeline = {"gives": torch.jit.script(Gives()), "takes": torch.jit.script(Takes())}
    expected = pipeline["takes"](pipeline["gives"]())
    image = freeze_each({"both": pipeline, **pipeline})
    both = thaw(image)
    assert both["takes"](both["gives"]()) == expected


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [0]

    def forward(self) -> int:
        self.seen.append(1)
        return len(self.seen)


def test_script_modules_that_hold_one_list_hold_one_again() -> None:
    one, other = torch.jit.script(Remembers()), torch.jit.script(Remembers())
    one.seen = other.seen = torch.jit.script([0])
    image = freeze_each({"both": [one, other], "one": one, "other": other})
    both = thaw(image)
    assert [both[0](), both[1](), both[0]()] == [one(), other(), one()] == [2, 3, 4]


def test_small_weights_of_other_roots_are_not_packed_with_a_roots_own() -> None:
    norms = {str(i): nn.LayerNorm(1024) for i in range(10)}
    image = freeze_each(norms)
    assert {mapped(image, skeleton) for skeleton in range(10)} == {2 * 1024 * 4}


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_loads_one_model_of_ten_maps_that_model() -> None:
    pipeline = {f"model{i}": nn.Linear(512, 512) for i in range(10)}
    refs = ActorWrapper(pipeline).constructor_kwargs["model_refs"]

    def in_a_worker(_: Any, ref: Any) -> tuple[int, int]:
        view = store.load(ref[0]).view
        assert view is not None
        return view.nbytes, view.copied_bytes

    worker = Worker.remote()
    found = ray.get(worker.do.remote(in_a_worker, [refs["pipeline['model3']"]]))
    assert found == (weight_bytes(pipeline["model3"]), 0)


@pytest.mark.usefixtures("cluster")
def test_private_parts_of_other_roots_do_not_hide_that_weights_are_not_shared() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.large = nn.Linear(1024, 1024)
            self.left_out = nn.Linear(1024, 1024)

    wrapper = ActorWrapper(Pipeline(), model_attr_names=["large"])
    view = store.load(wrapper.constructor_kwargs["model_refs"]["large"]).view
    assert view is not None
    assert view.copied_bytes == 0
    assert view.nbytes < 1.1 * weight_bytes(Pipeline().large)


def test_blocks_that_follow_each_other_are_one_segment_where_few_are_wanted() -> None:
    storage = torch.arange(3 << 15, dtype=torch.float32)
    pieces = [from_dlpack(part) for part in storage.split(1 << 15)]  # storages of their own, without a gap
    small = from_dlpack(storage[5:7])  # within the first
    roots = {"both": [*pieces[:2], small], "last": pieces[2]}
    assert len(freeze_each(roots).segments) == 3
    image = freeze_each(roots, join=True)
    assert sorted(memoryview(segment).nbytes for segment in image.segments) == [1 << 17, 1 << 18]
    first, second, within = thaw(image)
    assert torch.equal(torch.cat([first, second]), storage[: 2 << 15])
    first[5] = -1
    assert within[0] == -1
    assert torch.equal(thaw(image, skeleton=1), pieces[2])
