"""Images that say of their parts what cannot be, one a line: each is refused, whatever the bytes around it are."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_zerocopy import ImageError, _engine
from ray_zerocopy.image import freeze, leaves, thaw
from ray_zerocopy.image.image import Image
from ray_zerocopy.image.memory import DeviceMemory, HostMemory
from ray_zerocopy.image.parts import ImageParts
from ray_zerocopy.image.thawing import thaw_into
from ray_zerocopy.transport import store

Block = tuple[int | None, int, int]
"""The segment, the offset there, and the bytes."""

HUGE = 1 << 62
TOO_HUGE = 1 << 70


class Leaf:
    """Pickled as a call of one of the leaves, as it stands in a skeleton."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def tensor(
    block: int = 0, offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), dtype: Any = None
) -> Leaf:
    return Leaf(leaves.tensor, torch.Tensor, block, dtype or torch.float32, offset, shape, stride, False)


def whole(block: int = 0, shape: tuple[int, ...] = (4,), dtype: torch.dtype = torch.float32) -> Leaf:
    return Leaf(leaves.whole_tensor, torch.Tensor, block, dtype, shape, False)


def array(
    block: int = 0, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (4,), dtype: Any = "f4"
) -> Leaf:
    return Leaf(leaves.array, block, offset, shape, strides, np.dtype(dtype), True)


def image(
    root: Any,
    *blocks: Block,
    segments: tuple[int, ...] = (0,),
    buffers: tuple[int, ...] = (),
    tensor_blocks: tuple[int, ...] = (0,),
    archive: int | None = None,
) -> ImageParts:
    """Of one segment of 96 bytes, of which the first 16 are block 0 if no block is given."""
    pickled = pickle.dumps(root, protocol=5) + pickle.dumps(((), (), ()))
    index = {
        "segments": [[0, 96, None]],
        "blocks": blocks or [(0, 0, 16)],
        "tensors": {},
        "blobs": [[128, len(pickled), None]],
        "archives": [],
        "programs": [],
        "roots": [
            {
                "name": "pipeline",
                "skeleton": 0,
                "buffers": buffers,
                "archive": archive,
                "tensor_blocks": tensor_blocks,
                "segments": segments,
                "host_segments": segments,
            }
        ],
        "producer": "a test",
    }
    return ImageParts(json.dumps(index), (pickled,), (np.arange(24, dtype=np.float32).tobytes(),))


def edited(parts: ImageParts, edit: Callable[[dict[str, Any]], None]) -> ImageParts:
    """The same with an edited index."""
    index = json.loads(parts.index)
    edit(index)
    return replace(parts, index=json.dumps(index))


def on_the_host(bad: ImageParts) -> Any:
    put_together = Image.of(bad)
    bones = put_together.skeleton(0)
    return thaw_into(HostMemory(put_together, bones), bones).root


def on_a_device(bad: ImageParts) -> Any:
    put_together = Image.of(bad)
    bones = put_together.skeleton(0)
    return thaw_into(DeviceMemory(put_together, bones, torch.device("cpu")), bones).root


WHERE = [on_the_host, on_a_device]

# Leaves that the block 0, the first 16 of 96 bytes, does not have.
LEAVES = {
    "a tensor longer than its block": tensor(shape=(5,)),
    "a tensor that begins too far on": tensor(offset=1),
    "a tensor before its block": tensor(offset=-1, shape=(1,)),
    "a tensor whose offset overflows": tensor(offset=HUGE),
    "a tensor whose offset no 64 bits hold": tensor(offset=TOO_HUGE),
    "a tensor whose stride leads out": tensor(shape=(2, 2), stride=(4, 1)),
    "a tensor whose stride leads out below": tensor(shape=(2,), stride=(-1,)),
    "a tensor whose stride overflows": tensor(shape=(5,), stride=(HUGE,)),
    "a tensor whose strides cancel out": tensor(shape=(2, 2), stride=(HUGE, -HUGE)),
    "a tensor with a stride too few": tensor(shape=(2, 2), stride=(1,)),
    "a tensor with a stride too many": tensor(shape=(2,), stride=(1, 1)),
    "a tensor of less than no elements": tensor(shape=(-4,)),
    "a tensor of less than no elements twice": tensor(shape=(-2, -2), stride=(2, 1)),
    "a tensor of more elements than can be": tensor(shape=(HUGE, 4), stride=(0, 0)),
    "a tensor of more elements than can be, and of none": tensor(shape=(HUGE, 0, HUGE), stride=(0, 0, 0)),
    "a tensor of larger elements": tensor(dtype=torch.float64),
    "a whole tensor longer than its block": whole(shape=(5,)),
    "a whole tensor shorter than its block": whole(shape=(3,)),
    "a whole tensor of larger elements": whole(dtype=torch.float64),
    "a whole tensor of smaller elements": whole(dtype=torch.int8),
    "a whole tensor of larger elements, for which there is no capsule": whole(shape=(16,), dtype=torch.uint16),
    "a whole tensor of less than no elements": whole(shape=(-2, -2)),
    "a whole tensor whose size overflows to the right one": whole(shape=(HUGE, 4, 1 << 61, 0)),
    "a whole tensor of a length that no 64 bits hold": whole(shape=(TOO_HUGE,)),
    "a second whole tensor longer than its block": [whole(), whole(shape=(24,))],
    "an array longer than its block": array(shape=(5,)),
    "an array that begins too far on": array(offset=4),
    "an array before its block": array(offset=-4, shape=(1,)),
    "an array whose offset overflows": array(offset=HUGE),
    "an array whose offset no 64 bits hold": array(offset=TOO_HUGE),
    "an array whose stride leads out": array(strides=(8,)),
    "an array whose stride leads out below": array(strides=(-4,)),
    "an array whose stride leads out below an offset below": array(offset=-4, shape=(2,), strides=(-4,)),
    "an array whose stride overflows": array(strides=(HUGE,)),
    "an array whose strides cancel out": array(shape=(2, 2), strides=(HUGE, -HUGE)),
    "an array with a stride too few": array(shape=(2, 2)),
    "an array of less than no elements": array(shape=(-4,)),
    "an array of more elements than can be": array(shape=(HUGE, 4), strides=(0, 0)),
    "an array of larger elements": array(dtype="f8", strides=(8,)),
    "an array of objects": array(shape=(2,), strides=(8,), dtype=object),
    "an array of records with objects": array(shape=(1,), strides=(16,), dtype=[("number", "i8"), ("object", object)]),
    "a storage shorter than its block": Leaf(leaves.storage, 0, 12),
    "a storage longer than its block": Leaf(leaves.storage, 0, 96),
    "a storage of less than no bytes": Leaf(leaves.storage, 0, -16),
    "a storage without memory of less than no bytes": Leaf(leaves.meta_storage, -16),
    "a storage without memory of more bytes than can be": Leaf(leaves.meta_storage, TOO_HUGE),
    "a block that is not there": tensor(block=1),
    "a block counted from the end": tensor(block=-1),
    "a whole block counted from the end": whole(block=-1),
    "an array in a block that is not there": array(block=1),
    "an array in a block counted from the end": array(block=-1),
    "a storage of a block counted from the end": Leaf(leaves.storage, -1, 16),
    "an external object that is not there": Leaf(leaves.external, 0),
    "an external object counted from the end": Leaf(leaves.external, -1),
    "a TorchScript module that is not there": Leaf(leaves.script, 0),
}


@pytest.mark.parametrize("thawed", WHERE)
@pytest.mark.parametrize("bad", LEAVES.values(), ids=LEAVES.keys())
def test_what_does_not_lie_in_its_block_is_refused(thawed: Callable[[ImageParts], Any], bad: Any) -> None:
    with pytest.raises(ValueError, match=r"array|image|bytes|64 bits"):
        thawed(image(bad))


# Blocks that one segment of 96 bytes does not have.
BLOCKS = {
    "before its segment": (0, -16, 16),
    "across the start of its segment": (0, -4, 16),
    "across the end of its segment": (0, 84, 16),
    "behind its segment": (0, 96, 16),
    "far behind its segment": (0, HUGE, 16),
    "farther than 64 bits behind its segment": (0, TOO_HUGE, 16),
    "of no bytes": (0, 0, 0),
    "of less than no bytes": (0, 16, -16),
    "of all bytes but too many": (0, 0, 100),
    "of more bytes than can be": (0, 0, HUGE),
    "of a size that overflows to the right one": (0, 0, (1 << 64) + 16),
    "of another size than its tensor's": (0, 0, 8),
    "in a segment that is not there": (1, 0, 16),
    "in a segment counted from the end": (-2, 0, 16),
    "in no segment": (None, 0, 16),
    "in no segment, of no bytes": (None, 0, 0),
}

IN_BLOCKS = {
    "a tensor": tensor(),
    "a whole tensor": whole(),
    "an array": array(),
    "a storage": Leaf(leaves.storage, 0, 16),
}


@pytest.mark.parametrize("thawed", WHERE)
@pytest.mark.parametrize("leaf", IN_BLOCKS.values(), ids=IN_BLOCKS.keys())
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks_that_do_not_lie_in_their_segment_are_refused(
    thawed: Callable[[ImageParts], Any], leaf: Leaf, block: Block
) -> None:
    with pytest.raises(ValueError, match=r"array|image|bytes|64 bits"):
        thawed(image(leaf, block))


@pytest.mark.parametrize("block", [block for block in BLOCKS.values() if block[2] not in (0, 8)])
def test_buffers_that_do_not_lie_in_their_segment_are_refused(block: Block) -> None:
    with pytest.raises(ValueError, match=r"image|bytes|64 bits"):
        on_the_host(image(None, block, buffers=(0,)))


ROOTS = {
    "a buffer of a block that is not there": image(None, buffers=(1,)),
    "a buffer of a block counted from the end": image(None, buffers=(-1,)),
    "a block in a segment that is not listed": image(tensor(), segments=()),
    "a block in a segment that is not listed, and is not listed itself": image(tensor(), segments=(), tensor_blocks=()),
    "a segment that is not there": image(tensor(), segments=(0, 1)),
    "a segment counted from the end": image(tensor(), segments=(0, -1)),
    "an archive that is not there": image(Leaf(leaves.script, 0), archive=0),
}


@pytest.mark.parametrize("bad", ROOTS.values(), ids=ROOTS.keys())
def test_roots_that_list_what_is_not_there_are_refused(bad: ImageParts) -> None:
    with pytest.raises(ValueError, match="image"):
        on_the_host(bad)


@pytest.mark.parametrize("tensor_blocks", [(), (-1,), (1,)])
def test_a_root_that_does_not_list_its_tensors_blocks_is_refused_on_a_device(tensor_blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image"):
        on_a_device(image(tensor(), tensor_blocks=tensor_blocks))


@pytest.mark.parametrize("number", [1, -1, HUGE])
def test_a_skeleton_that_is_not_there_is_refused(number: int) -> None:
    good = Image.of(image(tensor()))
    with pytest.raises(ValueError, match=f"root {number} is asked for"):
        thaw(good, skeleton=number)


SCRIPTS = {
    "a block shorter than the module's tensor": lambda blocks: [[s, at, nbytes // 2] for s, at, nbytes in blocks],
    "a block of no bytes": lambda blocks: [[s, at, 0] for s, at, _ in blocks],
    "a block that is said to be empty": lambda blocks: [[None, 0, 0] for _ in blocks],
    "a block that ends behind its segment": lambda blocks: [[s, at + 4096, nbytes] for s, at, nbytes in blocks],
    "a block before its segment": lambda blocks: [[s, -64, nbytes] for s, _, nbytes in blocks],
    "no blocks": lambda blocks: [],
}


@pytest.fixture(scope="module")
def scripted() -> ImageParts:
    return freeze(torch.jit.script(nn.Linear(8, 8))).parts


@pytest.mark.parametrize("change", SCRIPTS.values(), ids=SCRIPTS.keys())
@pytest.mark.parametrize("thawed", WHERE)
def test_torchscript_modules_are_given_no_memory_that_is_not_theirs(
    scripted: ImageParts, thawed: Callable[[ImageParts], Any], change: Callable[[Any], Any]
) -> None:
    with pytest.raises(ValueError, match=r"array|image|bytes"):
        thawed(edited(scripted, lambda index: index.update(blocks=change(index["blocks"]))))


def test_an_archive_with_too_few_sizes_or_a_module_that_it_does_not_hold_is_refused(scripted: ImageParts) -> None:
    with pytest.raises(ValueError, match="its list of sizes"):
        Image.of(edited(scripted, lambda index: index["archives"][0]["sizes"].pop()))
    with pytest.raises(ValueError, match="TorchScript module"):
        thaw(Image.of(edited(scripted, lambda index: index["archives"][0].update(modules=[[0, 99, []]]))))


def test_storages_of_another_size_than_their_archive_needs_are_refused(scripted: ImageParts) -> None:
    def smaller(index: dict[str, Any]) -> None:
        archive = index["archives"][0]
        archive["sizes"] = [size // 2 for size in archive["sizes"]]

    with pytest.raises(ValueError, match="bytes"):
        thaw(Image.of(edited(scripted, smaller)))


def test_quantized_weights_in_a_block_that_is_said_to_have_no_bytes_are_refused() -> None:
    # torch's own function puts these together; it would resize an empty storage, and leave it as it is.
    frozen = freeze(torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8)).parts
    with pytest.raises(ValueError, match="bytes"):
        thaw(Image.of(edited(frozen, lambda index: index.update(blocks=[[None, 0, 0] for _ in index["blocks"]]))))


PARTS = {
    "a segment more": lambda parts: replace(parts, segments=(*parts.segments, bytes(8))),
    "a segment less": lambda parts: replace(parts, segments=()),
    "a longer segment": lambda parts: replace(parts, segments=(bytes(97),)),
    "a shorter segment": lambda parts: replace(parts, segments=(bytes(95),)),
    "a blob less": lambda parts: replace(parts, blobs=()),
    "another blob": lambda parts: replace(parts, blobs=(b"",)),
    "an index that is none": lambda parts: replace(parts, index="[]"),
    "an index that ends too early": lambda parts: replace(parts, index=parts.index[:-1]),
}


@pytest.mark.parametrize("change", PARTS.values(), ids=PARTS.keys())
def test_parts_that_do_not_belong_together_are_refused(change: Callable[[ImageParts], ImageParts]) -> None:
    with pytest.raises(ImageError, match="an image cannot be put together from its parts") as caught:
        Image.of(change(image(tensor())))
    assert caught.value.code in ("malformed_index", "truncated")


@pytest.mark.parametrize("thawed", WHERE)
def test_blocks_may_overlap_in_any_way_and_show_the_same_bytes(thawed: Callable[[ImageParts], Any]) -> None:
    overlapping = image(
        [tensor(0), tensor(1), array(2, shape=(2,))],
        *((0, 0, 16), (0, 4, 16), (0, 8, 8)),
        tensor_blocks=(0, 1),
    )
    first, second, third = thawed(overlapping)
    assert (first.tolist(), second.tolist(), third.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4], [2, 3])
    second[0] = 7
    assert first.tolist() == [0, 7, 2, 3]


@pytest.mark.parametrize(
    "leaf", [tensor(offset=99, shape=(0,)), array(offset=16, shape=(0,)), tensor(shape=(0, 9), stride=(9, 1))]
)
def test_what_has_no_elements_lies_anywhere(leaf: Leaf) -> None:
    assert np.asarray(on_the_host(image(leaf))).size == 0


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(-1, 1), (0, 65), (64, 1), (65, 0), (0, -1), (HUGE, HUGE), (1, TOO_HUGE)]
)
def test_the_engine_gives_no_bytes_outside_of_a_segment(offset: int, nbytes: int) -> None:
    view = _engine.View([bytes(64)])
    with pytest.raises(ValueError, match=r"bytes|64 bits"):
        view.part(0, offset, nbytes)
    with pytest.raises(ValueError, match=r"bytes|64 bits"):
        _engine.borrow(bytes(64), offset, nbytes)
    with pytest.raises(TypeError):
        view.part(0, 0, "64")


def test_a_published_image_that_is_wrong_is_refused_where_it_is_loaded(cluster: None) -> None:
    with pytest.raises(ValueError, match="block 0: its 16 bytes from byte 84 on are not within its segment"):
        store.load(store.publish(image(tensor(), (0, 84, 16))))
    with pytest.raises(ValueError, match="root -1 is asked for"):
        store.load(store.ModelInImage(store.publish(image(tensor())), -1))
