"""Compiles a product's kernels for a GPU that need not be there, and says what they take.

Run as a program, outside triton's interpreter: `compiled.py CAPABILITY TABLE [ROWS ...]` prints
as JSON the shared memory of every kernel, and how often an operand of a running product is
overwritten.
"""

from __future__ import annotations

import json
import re
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

CAPABILITY = int(sys.argv[1])


class NoDevice:
    def get_current_target(self):
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def overwritten(ptx):
    """Registers written while an asynchronous product still reads them, in a loop run twice."""
    lines = [line.split("//")[0].strip() for line in ptx.splitlines()]
    labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\$L__BB\w+:", line)}
    loops = []
    for at, line in enumerate(lines):
        jump = re.search(r"bra(?:\.uni)?\s+(\$L__BB\w+)", line)
        if jump and labels.get(jump[1], at) < at:
            loops.append(lines[labels[jump[1]] : at + 1])
    body = max(loops, key=lambda loop: sum("mma_async" in line for line in loop), default=[])
    running, latest, count = [], set(), 0
    for line in body * 2:
        product = re.search(r"mma_async[^{]*\{[^}]*\},\s*\{([^}]*)\}", line)
        wait = re.search(r"wgmma\.wait_group\.sync\.aligned\s+(\d+)", line)
        target = re.match(r"(?:@!?%p\d+\s+)?[\w.]+\s+(\{[^}]*\}|%\w+)", line)
        if product:
            latest |= {name.strip() for name in product[1].split(",")}
        elif "wgmma.commit_group" in line:
            running.append(latest)
            latest = set()
        elif wait:
            running = running[len(running) - int(wait[1]) :] if int(wait[1]) else []
        elif target:
            names = set(re.findall(r"%\w+", target[1]))
            count += any(names & reads for reads in (*running, latest))
    return count


def main():
    driver.set_active(NoDevice())
    torch.cuda.get_device_capability = lambda *_: (CAPABILITY // 10, CAPABILITY % 10)
    run, found = JITFunction.run, []

    def compile_only(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append((self.__name__, kernel))
        return kernel

    JITFunction.run = compile_only
    from quantload_kernels_triton import hopper, launch, plans
    from quantload_kernels_triton.geometry import Geometry
    from quantload_kernels_triton.jit import hopper as written

    hopper._module = lambda: written  # with whatever triton there is

    asked = {int(rows) for rows in sys.argv[3:]}
    for entry in plans.table(sys.argv[2]):
        if asked and entry.rows not in asked:
            continue
        geometry = Geometry(entry.bits, 512, 4096)
        pairs = (32, geometry.tiles, 8, 2)
        weight = launch.Arranged(
            torch.zeros(geometry.words_shape, dtype=torch.int16),
            torch.ones(pairs, dtype=torch.float16),
            torch.zeros(pairs, dtype=torch.int16),
            None,
            entry.bits,
            128,
            128,
            512,
            4096,
        )
        plan = plans.fitted(entry.plan, geometry, 128)
        launch.linear(torch.zeros(entry.rows, 4096, dtype=torch.float16), weight, None, plan)
    result = [
        [name, kernel.metadata.shared, overwritten(kernel.asm["ptx"])] for name, kernel in found
    ]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
