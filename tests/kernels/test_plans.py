from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantload_kernels_triton import plans
from quantload_kernels_triton.geometry import PLANES, Geometry

TABLES = ("sm80", "sm90")


def compiled(capability, table, *rows):
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compiled.py")
    command = [sys.executable, str(script), str(capability), table, *map(str, rows)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bits", list(PLANES))
@pytest.mark.parametrize("shape", [(16, 32), (600, 1056), (4096, 4096), (151936, 8192)])
def test_there_is_a_plan_for_every_weight_and_count_of_rows(table, bits, shape):
    geometry = Geometry(bits, *shape)
    for run in (32, 64, 128, 256):
        for rows in (1, 2, 9, 17, 33, 100, 511, 5000):
            plan = plans.plan_for(table, geometry, run, rows)
            assert plan.kernel in ("few", "many", "decoded")
            if shape[1] % 64 == 0:  # else warpgroups cannot
                wide = plans.plan_for(table, geometry, run, rows, wide=True)
                assert wide == plan or (wide.kernel == "warpgroups" and table == "sm90")
            assert plan.kernel != "few" or rows <= plans.MOST_FEW
            assert plan.kernel == "many" or geometry.tiles % plan.tiles == 0
            assert plan.units == 1 or plan.units * geometry.unit <= run


def test_devices_of_other_families_get_the_plans_that_need_least():
    names = [plans.family(c) for c in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))]
    assert names == ["sm80", "sm80", "sm80", "sm90", "sm80", "sm80"]


def test_the_measured_plan_of_a_listed_product_is_the_one_used():
    for entry in plans.table("sm90"):
        geometry = Geometry(entry.bits, entry.out, entry.into)
        found = plans.plan_for("sm90", geometry, 128, entry.rows)
        assert found == plans.fitted(entry.plan, geometry, 128)
        assert found.kernel in ("few", "many", "decoded")


@pytest.mark.parametrize(
    ("rows", "shape", "sizes"),
    [
        (128, (8192, 28672), {"stack": 3, "rows": 128, "parts": 3, "stages": 6}),
        (512, (4096, 4096), {"stack": 1, "ways": 2, "rows": 256, "stages": 4}),
        (512, (4096, 11008), {"rows": 256, "parts": 2, "stages": 4}),
        (512, (28672, 8192), {"rows": 256, "parts": 2, "rest": True, "stages": 4}),
        (2048, (14336, 4096), {"rows": 256, "stages": 4}),
        (9000, (4096, 4096), {"rows": 256, "stages": 4}),
    ],
)
def test_the_tiles_that_were_quickest_are_the_ones_used(rows, shape, sizes):
    found = plans.plan_for("sm90", Geometry(4, *shape), 128, rows, wide=True)
    assert found == plans.Plan("warpgroups", **sizes)


def test_small_products_are_left_to_other_kernels():
    found = plans.plan_for("sm90", Geometry(4, 1024, 4096), 128, 40, wide=True)
    assert found == plans.plan_for("sm90", Geometry(4, 1024, 4096), 128, 40)


@pytest.mark.slow
def test_the_devices_with_the_least_shared_memory_have_enough():
    assert max(shared for _, shared, _ in compiled(86, "sm80", 16, 64, 128)) <= 99 * 1024


@pytest.mark.slow
def test_no_operand_is_overwritten_while_hopper_reads_it():
    found = compiled(90, "sm90", 64, 256)
    assert "many_rows" in {name for name, _, _ in found}
    assert [entry for entry in found if entry[2]] == []
    assert max(shared for _, shared, _ in found) <= 227 * 1024


@pytest.mark.slow
def test_warpgroups_leave_an_operand_alone_while_it_is_read():
    found = compiled(90, "warpgroups")
    names = [name for name, _, _ in found]
    assert names.count("affine_rows") == 14
    assert names.count("blocks_rows") == 3
    assert [entry for entry in found if entry[2]] == []
    assert max(shared for _, shared, _ in found) <= 227 * 1024
