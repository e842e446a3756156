"""Compile recorded launches of Triton kernels for a Hopper GPU, on a machine without one.

A process of its own, because this one must not see the interpreter. Reads launches as JSON lines on
the standard input: module, kernel, arguments (a dtype's name for a tensor) and options. Writes a
JSON line for each: registers, bytes of local memory, and the widest load in bytes.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Absent:
    """A driver for a device that is not there: enough for compiling, not for launching."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(launch: dict[str, Any]) -> dict[str, Any]:
    kernel = getattr(importlib.import_module(launch["module"]), launch["kernel"])
    arguments = [getattr(torch, a) if isinstance(a, str) else a for a in launch["arguments"]]
    made = kernel.warmup(*arguments, grid=(1,), **launch["options"])
    # Predicated loads look like `@%p1 ld.global.v4.b32`, those past the registers like
    # `cp.async.cg.shared.global [ %r1 ], [ %rd1 ], 0x10`.
    loads = re.findall(r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.[bfsu](\d+)\b", made.asm["ptx"])
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?\], (0x\w+)", made.asm["ptx"])
    widths = [int(v or 1) * int(bits) // 8 for v, bits in loads] + [int(n, 16) for n in copies]
    widest = max(widths, default=0)
    return {**usage(made.asm["cubin"]), "widest": widest, "shared": made.metadata.shared}


def usage(binary: bytes) -> dict[str, int]:
    """Registers and local memory of a thread, from the tool that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "local": found["STACK"] + found["LOCAL"]}


if __name__ == "__main__":
    driver.set_active(Absent())  # type: ignore[arg-type]
    for line in sys.stdin:
        sys.stdout.write(json.dumps(compiled(json.loads(line))) + "\n")
        sys.stdout.flush()
