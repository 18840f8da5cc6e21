"""Subclasses of numpy's arrays in an image: bytes shared, class and attributes kept."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
from memory import bits
from pipelines import Worker

from ray_zerocopy import ActorWrapper
from ray_zerocopy.image import freeze, thaw

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

VALUES = np.arange(24.0).reshape(4, 6)


class Tagged(np.ndarray):
    """A subclass with an attribute, as numpy's documentation has it."""

    tag: Any

    def __new__(cls, values: Any, tag: Any) -> Tagged:
        tagged = np.asarray(values).view(cls)
        tagged.tag = tag
        return tagged

    def __array_finalize__(self, obj: Any) -> None:
        self.tag = getattr(obj, "tag", None)


class Packs(np.ndarray):
    """A subclass that says itself how it is pickled."""

    def __reduce__(self) -> Any:
        return unpacked, (self.tolist(),)


def unpacked(values: Any) -> Packs:
    return np.array(values).view(Packs)


def again(value: Any) -> Any:
    return thaw(freeze(value))


ARRAYS: dict[str, Callable[[], Any]] = {
    "masked": lambda: np.ma.array(VALUES, mask=VALUES > 5, fill_value=-7.0),
    "masked nowhere": lambda: np.ma.array(VALUES),
    "masked records": lambda: np.ma.array([(1, 2.0)], mask=[(0, 1)], dtype=[("a", "i4"), ("b", "f8")]),
    "matrix": lambda: np.matrix(VALUES),
    "recarray": lambda: np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "user's": lambda: Tagged(VALUES, {"unit": "m"}),
    "read-only": lambda: read_only(Tagged(VALUES, 1)),
    "strided": lambda: np.ma.array(VALUES)[::-1, ::2],
    "empty": lambda: np.ma.array(VALUES)[:0],
    "of characters": lambda: np.char.array([b"ab", b"c"]),
}


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_keeps_its_class_bits_and_flags_and_its_bytes_are_a_segment(kind: str) -> None:
    array = ARRAYS[kind]()
    image = freeze([array])
    assert image.nbytes >= array.nbytes
    (thawed,) = thaw(image)
    assert type(thawed) is type(array)
    assert thawed.dtype == array.dtype
    assert thawed.strides == array.strides
    assert thawed.flags.writeable == array.flags.writeable
    assert bits(np.asarray(thawed)) == bits(np.asarray(array))


def test_a_masked_array_keeps_mask_fill_value_and_hardness() -> None:
    array = np.ma.array(VALUES, mask=VALUES > 5, fill_value=-7.0, hard_mask=True)
    thawed = again(array)
    assert bits(thawed.mask) == bits(array.mask)
    assert thawed.fill_value == -7.0
    assert thawed.hardmask
    assert thawed.sharedmask == array.sharedmask
    thawed[...] = 1.0
    assert thawed.mask.any()
    assert bits(thawed.filled()) == bits(np.where(array.mask, -7.0, 1.0))
    assert array[0, 1] == 1.0
    assert thawed.sum() == np.count_nonzero(~array.mask)


def test_the_masked_constant_stays_the_only_one() -> None:
    assert again({"x": np.ma.masked})["x"] is np.ma.masked


def test_attributes_of_a_users_class_come_along() -> None:
    thawed = again(Tagged(VALUES, ["metres"]))
    assert thawed.tag == ["metres"]
    assert thawed[0].tag == ["metres"]


def test_fields_of_a_recarray_are_attributes_again() -> None:
    thawed = again(ARRAYS["recarray"]())
    assert thawed.b.tolist() == [2.5, 4.5]
    thawed.a[0] = 9
    assert thawed[0].a == 9


def test_views_of_one_array_overlap_again_whatever_their_classes() -> None:
    base = VALUES.copy()
    thawed = again({"base": base, "matrix": base.view(np.matrix), "masked": np.ma.array(base, copy=False)[1:]})
    thawed["base"][1, 0] = -1
    assert thawed["matrix"][1, 0] == -1
    assert thawed["masked"][0, 0] == -1
    assert freeze([base, base.view(np.matrix)]).nbytes <= base.nbytes + 64


def test_two_thaws_are_independent_and_the_original_is_not_changed() -> None:
    array = np.ma.array(VALUES.copy(), mask=VALUES > 5)
    image = freeze(array)
    one, other = thaw(image), thaw(image)
    one[0, 0] = np.ma.masked
    one[0, 1] = 100
    for untouched in (other, array):
        assert not untouched.mask[0, 0]
        assert untouched[0, 1] == 1


def test_a_class_that_pickles_itself_does_so() -> None:
    thawed = again(VALUES.view(Packs))
    assert type(thawed) is Packs
    assert bits(thawed) == bits(VALUES)


def test_arrays_of_objects_are_pickled_by_numpy() -> None:
    array = np.ma.array([{"a": 1}, None], mask=[False, True], dtype=object)
    thawed = again(array)
    assert thawed[0] == {"a": 1}
    assert thawed.mask.tolist() == [False, True]


def test_a_masked_array_of_a_file_is_a_masked_array_of_memory(tmp_path: pathlib.Path) -> None:
    mapped = np.memmap(tmp_path / "values", dtype="f8", mode="w+", shape=(4, 6))
    mapped[:] = VALUES
    array = np.ma.array(mapped, mask=VALUES > 5)
    thawed = again(array)
    assert bits(thawed.filled(0)) == bits(array.filled(0))
    assert type(copy.deepcopy(thawed).data) is np.ndarray


@pytest.mark.usefixtures("cluster")
def test_workers_share_masked_arrays_matrices_and_recarrays() -> None:
    size = 8 << 20
    values = np.arange(size, dtype=np.float32)
    records = np.zeros(size // 8, dtype=[("a", "f4"), ("b", "i4")]).view(np.recarray)
    pipeline = {
        "masked": np.ma.array(values, mask=values > 5),
        "matrix": np.matrix(np.ones((8, size // 8), np.float32)),
        "records": records,
    }
    nbytes = values.nbytes + size + pipeline["matrix"].nbytes + records.nbytes

    def read(loaded: Any) -> tuple[float, float, float]:
        return float(loaded["masked"].mask.sum()), float(loaded["matrix"].sum()), float(loaded["records"].b.sum())

    worker = Worker.remote()
    small = {"masked": pipeline["masked"][:8], "matrix": pipeline["matrix"][:, :8], "records": records[:8]}
    ray.get(worker.load.remote(ActorWrapper({name: array.copy() for name, array in small.items()})))
    ray.get(worker.do.remote(read))
    before = ray.get(worker.grown.remote())
    ray.get(worker.load.remote(ActorWrapper(pipeline)))
    assert ray.get(worker.do.remote(read)) == read(pipeline)
    assert ray.get(worker.grown.remote()) - before < 0.05 * nbytes
