"""What needs a newer torch than the oldest that is supported says so."""

from __future__ import annotations

import subprocess
import sys

import torch

TAKE_AWAY_WHAT_IS_NEWER = """
import torch
from programs import exported, stack
from torch._inductor import config
from ray_zerocopy import CompiledProgram

class OldLoader:
    def load_constants(self, constants_map, use_inactive, check_full_update):
        pass

def say(function, *args):
    try:
        function(*args)
    except RuntimeError as error:
        print(error)

program = exported(stack())
del config._config["aot_inductor.package_constants_on_disk_format"]
say(CompiledProgram.compile, program)
torch._C._aoti.AOTIModelPackageLoader = OldLoader
say(CompiledProgram.compile, program)
say(CompiledProgram, b"", {})
del torch._C._aoti
say(CompiledProgram, b"", {})
"""


def test_a_compiled_program_says_what_it_needs_and_which_torch_has_it() -> None:
    command = [sys.executable, "-c", TAKE_AWAY_WHAT_IS_NEWER]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    versions = f"; torch {torch.__version__} lacks it, torch 2.13 has it"
    loader = f"CompiledProgram needs a loader of packages that uses constants where they are{versions}"
    option = "inductor's option aot_inductor.package_constants_on_disk_format"
    assert said == [f"CompiledProgram needs {option}{versions}", loader, loader, loader]
