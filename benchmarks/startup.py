"""What starting costs: CPU milliseconds of a fresh process, beside `transformers`.

Every figure is that of a whole child process (user and system time of all its
threads, torch's import included wherever the code imports it) less that of a bare
interpreter, which is measured beside it each time.
"""

from __future__ import annotations

import json
import os
import sys
import time

from _common import OUT, Case, Meter, main

CONFIG = '{"load_in_4bit": True}'
CODE = {
    "import torch": "import torch",
    "import quantload": "import quantload",
    "quantload list": "import sys; sys.argv[1:] = ['list']\nfrom quantload.cli import main; main()",
    "quantload from_config": f"import quantload; quantload.AutoHfQuantizer.from_config({CONFIG})",
    "transformers from_config": "from transformers.quantizers import AutoHfQuantizer\n"
    f"AutoHfQuantizer.from_config({CONFIG}, pre_quantized=False)",
}
BARE = "pass"


def child(code: str) -> tuple[float, float]:
    """CPU and wall milliseconds of `python -c code`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    null = os.open(os.devnull, os.O_WRONLY)
    start = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)],
    )
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    os.close(null)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"the child failed: {code}")
    return (usage.ru_utime + usage.ru_stime) * 1e3, wall * 1e3


def case(code: str) -> Case:
    def run(meter: Meter) -> None:
        bare_cpu, bare_wall = child(BARE)
        cpu, wall = child(code)
        meter.note("cpu_ms", cpu - bare_cpu)
        meter.note("wall_ms", wall - bare_wall)
        meter.note("bare_cpu_ms", bare_cpu)

    return run


if __name__ == "__main__":
    main("startup", {name: case(code) for name, code in CODE.items()}, repeat=9)
    if "--case" not in sys.argv:
        rows = json.loads((OUT / "startup.json").read_text())["median"]
        ours, peer = (rows.get(f"{name} from_config") for name in ("quantload", "transformers"))
        if ours and peer:
            share = ours["cpu_ms"] / peer["cpu_ms"]
            print(f"from_config: quantload takes {share:.3f} of the CPU time of transformers")
