"""Compiles a product's kernels for a GPU that need not be there, and says what they take.

Run as a program, outside triton's interpreter: `compiled.py CAPABILITY TABLE [ROWS ...]` prints
as JSON the shared memory of every kernel, and how often an operand of a running product is
overwritten. With `warpgroups` for the table it compiles those, in every size and for every width.
"""

from __future__ import annotations

import json
import re
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction
from warpgroup_sizes import SIZES

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
    from quantload_kernels_triton import launch, plans, warpgroups
    from quantload_kernels_triton.blocks import launch as block_launch
    from quantload_kernels_triton.geometry import Geometry

    warpgroups.NEWEST = (99, 0)  # with whatever triton there is

    def zeros(shape, dtype):
        return torch.zeros(shape, dtype=dtype)

    def multiply(rows, bits, plan, group=128, scales=torch.float16, table=""):
        geometry = Geometry(bits, 512, 4096)
        shape = (4096 // group, geometry.tiles, 8, 2)
        offsets = None if table else zeros(shape, torch.int16)
        words = zeros(geometry.words_shape, torch.int16)
        run, size = min(group, 256), (512, 4096)
        weight = launch.Arranged(
            words, zeros(shape, scales), offsets, None, bits, group, run, *size, table
        )
        plan = plans.fitted(plan, geometry, 128)
        launch.linear(zeros((rows, 4096), torch.float16), weight, None, plan)

    def multiply_blocks(form, plan):
        size = (512, 4096)
        low = zeros(form.low(*size).words_shape, torch.int16).squeeze(2)
        high = minima = None
        if form.high_bits:
            high = zeros(form.high(*size).words_shape, torch.int16).squeeze(2)
        if form.steps and form.offsets:
            minima = zeros(form.minima_shape(*size), torch.int32)
        steps = zeros(form.steps_shape(*size), torch.int32) if form.steps else None
        scales = zeros(form.scales_shape(*size), torch.float16)
        weight = block_launch.Blocks(low, high, scales, steps, minima, form, *size)
        block_launch.linear(zeros((300, 4096), torch.float16), weight, plan)

    if sys.argv[2] == "warpgroups":
        from quantload_kernels_triton.blocks.form import Form
        from quantload_kernels_triton.blocks.plans import Plan

        for sizes in SIZES:
            multiply(300, 4, plans.Plan("warpgroups", **sizes))
        plan = plans.Plan("warpgroups", **SIZES[0])
        for bits in (2, 3, 8):
            multiply(300, bits, plan)
        multiply(300, 4, plan, 64, torch.float32, "nf4")
        multiply(300, 8, plan, 4096, torch.float32)
        for form in (Form(4, 8, False, 0), Form(5, 0, True, 32), Form(6, 32, False, 16)):
            multiply_blocks(form, Plan("warpgroups", **SIZES[0]))
    else:
        asked = {int(rows) for rows in sys.argv[3:]}
        for entry in plans.table(sys.argv[2]):
            if not asked or entry.rows in asked:
                multiply(entry.rows, entry.bits, entry.plan)
    result = [
        [name, kernel.metadata.shared, overwritten(kernel.asm["ptx"])] for name, kernel in found
    ]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
