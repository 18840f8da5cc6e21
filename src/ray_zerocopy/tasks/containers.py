"""torch's lists of modules where they hold stand-ins, which are no modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ray_zerocopy.image import freeze


class ModuleList(nn.ModuleList):
    """A `torch.nn.ModuleList` whose slices and sums may hold stand-ins, as it does itself."""

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return _list_of(list(self._modules.values())[idx])
        return super().__getitem__(idx)

    def __add__(self, other: Iterable[Any]) -> ModuleList:
        return _list_of([*self._modules.values(), *other])


def _list_of(modules: Iterable[Any]) -> ModuleList:
    made = ModuleList()
    made._modules.update((str(number), module) for number, module in enumerate(modules))
    return made.eval()


def admit_stand_ins(pipeline: Any, is_leaf: Callable[[type], bool]) -> None:
    """Give every `torch.nn.ModuleList` of a pipeline that was put together the class above.

    Args:
        pipeline: any picklable object.
        is_leaf: says of a class whether there is nothing to look for in its objects.
    """
    waiting, seen = [pipeline], {id(pipeline)}
    while waiting:
        outer = waiting.pop()
        if type(outer) is nn.ModuleList:
            outer.__class__ = ModuleList
        inner = vars(outer) if isinstance(outer, ModuleList) else outer
        for found in freeze(inner, external=lambda cls: cls is nn.ModuleList or is_leaf(cls)).externals:
            if type(found) is nn.ModuleList and id(found) not in seen:
                seen.add(id(found))
                waiting.append(found)
