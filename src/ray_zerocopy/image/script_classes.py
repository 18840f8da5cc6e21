"""TorchScript archives with each module class once.

Tracing gives every module a class of its own: a traced BERT has 228, of which 30 differ. An archive holds each as
source code, which is parsed and compiled at every load and kept by every worker. Module classes whose code is the same
but for the names of such classes are merged here, as `torch.jit.script` has them from the beginning: a load of that
BERT takes 30 ms instead of 100.
"""

from __future__ import annotations

import itertools
import pickletools
import re
from collections.abc import Mapping
from typing import NamedTuple

_CODE = ".data/ts_code/code/"
_DEFINITION = re.compile(r"^(?:class|def) (\w+)(\(Module\))?", re.MULTILINE)
_NAME = re.compile(r"\b__torch__(?:\.\w+)+")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')


class _Definition(NamedTuple):
    record: str
    text: str
    mergeable: bool


def merge_equal_classes(records: Mapping[str, bytes]) -> dict[str, bytes]:
    """The records of an archive with one module class in place of those that do the same.

    Of module classes only: instances of two named tuples or enumerations are told apart by their classes. A class whose
    name stands in a string, be it a type's or a user's, stays as it is.
    """
    definitions = _definitions(records)
    named_in_strings = _named_in_strings(records)
    merged_into = _representatives(
        {
            name: (name.rpartition(".")[2] if it.mergeable and name not in named_in_strings else name, it.text)
            for name, it in definitions.items()
        }
    )
    defining = {definition.record for definition in definitions.values()}  # that of C++ classes has no text at all
    merged = {name: record for name, record in records.items() if name not in defining}
    for name, (record, text, _) in definitions.items():
        if merged_into[name] == name:
            merged[record] = merged.get(record, b"") + _renamed(text, merged_into).encode()
    return {
        name: _with_globals_renamed(record, merged_into) if name.endswith(".pkl") else record
        for name, record in merged.items()
    }


def _definitions(records: Mapping[str, bytes]) -> dict[str, _Definition]:
    """The classes and functions of an archive by their qualified names."""
    definitions = {}
    for record, source in records.items():
        if record.startswith(_CODE):
            text = source.decode()
            module = record.removeprefix(_CODE).removesuffix(".py").replace("/", ".")
            found = list(_DEFINITION.finditer(text))
            starts = [match.start() for match in found] + [len(text)]
            for start, (begin, end) in zip(found, itertools.pairwise(starts), strict=True):
                body = text[begin:end]
                definitions[f"{module}.{start[1]}"] = _Definition(record, body, start[2] is not None)
    return definitions


def _named_in_strings(records: Mapping[str, bytes]) -> set[str]:
    names: set[str] = set()
    for record, content in records.items():
        if record.startswith(_CODE):
            strings = _STRING.findall(content.decode())
        elif record.endswith(".pkl"):
            strings = [text for op, text, _ in pickletools.genops(content) if op.name == "BINUNICODE"]
        else:
            strings = []
        names.update(name for text in strings if isinstance(text, str) for name in _NAME.findall(text))
    return names


def _representatives(definitions: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """For each definition the first that is the same, itself as a rule.

    The coarsest partition in which equal ones have equal texts and refer to equal ones: all with the same key and text
    are together at first, and parted as long as what they refer to is.

    Args:
        definitions: by name, a key (only those with the same one may be merged) and the text.
    """
    group_of = {name: key for name, (key, _) in definitions.items()}
    while True:
        numbers: dict[tuple[str, str], str] = {}
        refined = {
            name: numbers.setdefault((group_of[name], _renamed(text, group_of)), str(len(numbers)))
            for name, (_, text) in definitions.items()
        }
        stable = len(numbers) == len(set(group_of.values()))
        group_of = refined
        if stable:
            break
    first: dict[str, str] = {}
    return {name: first.setdefault(group, name) for name, group in group_of.items()}


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """The code with other names for what is defined in the archive; also where a name goes on (`…Color.RED`)."""

    def other(match: re.Match[str]) -> str:
        name, rest = match[0], ""
        while name not in names:
            name, dot, last = name.rpartition(".")
            if not dot:
                return match[0]
            rest = dot + last + rest
        return names[name] + rest

    return _NAME.sub(other, text)


def _with_globals_renamed(pickled: bytes, names: Mapping[str, str]) -> bytes:
    """A pickle of torch's C++ pickler, which writes protocol 2: without frames, so that lengths may change."""
    parts = []
    done = 0
    operations = list(pickletools.genops(pickled))
    ends = [position for _, _, position in operations[1:]] + [len(pickled)]
    for (operation, argument, position), end in zip(operations, ends, strict=True):
        if operation.name == "GLOBAL" and isinstance(argument, str) and position is not None and end is not None:
            name = argument.replace(" ", ".")
            if names.get(name, name) != name:
                module, _, last = names[name].rpartition(".")
                parts += [pickled[done:position], f"c{module}\n{last}\n".encode()]
                done = end
    return b"".join(parts) + pickled[done:]
