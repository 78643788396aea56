"""Run by two processes under `torchrun`: every method split by `tp_plan`, and saved again.

Arguments: folder of the float model, one of a packed model with experts (the float one has the
same name and `-float`), a folder to write in, then method and packed folder in
turn. Each process prints one line per thing that it found to hold.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[2] / "examples"
sys.path[:0] = [
    str(HERE),
    str(HERE.parents[1] / "core" / "support"),
    str(EXAMPLES / "third_party_plugin" / "src"),
    str(EXAMPLES / "minimal_plugin" / "src"),
]

import torch  # noqa: E402  found by the lines above, as all that follows
from methods import METHODS  # noqa: E402
from quantload_hqq.plugin import PLUGIN as HQQ  # noqa: E402
from quantload_rtn8.plugin import PLUGIN as RTN8  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from toy8.plugin import PLUGIN as TOY8  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.distributed import DistributedConfig  # noqa: E402

import quantload  # noqa: E402

IDS = torch.arange(24).reshape(2, 12) * 7 % 320


def tell(line: str) -> None:
    """In one write: both processes have the same standard output, which is not buffered."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def check_split(model: Any, whole: Any) -> None:
    mine, all_ = model.model.layers[0].mlp, whole.model.layers[0].mlp
    assert mine.down_proj.weight.shape[1] * 2 == all_.down_proj.weight.shape[1]
    assert mine.up_proj.weight.shape[0] * 2 == all_.up_proj.weight.shape[0]
    torch.testing.assert_close(logits(model), logits(whole), atol=1e-5, rtol=1e-4)


def check_saved(model: Any, folder: Path, packed: Path) -> None:
    model.save_pretrained(folder)
    torch.distributed.barrier()
    found = load_file(folder / "model.safetensors")
    wanted = load_file(packed / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        same = torch.equal(_bytes(found[name]), _bytes(tensor))
        assert same, f"{name} has other bytes"
    torch.testing.assert_close(logits(model), logits(quantload.load_model(folder)))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def check_refused(words: tuple[str, ...], act: Callable[..., Any], *arguments: Any) -> None:
    try:
        act(*arguments)
    except quantload.UnsupportedOperationError as error:
        told = str(error)
    else:
        told = ""
    assert told, "a part of a model was taken for the whole"
    assert all(word in told for word in words), told


def check(method: str, packed: Path, tiny: Path, out: Path) -> None:
    whole = quantload.load_model(packed)
    model = AutoModelForCausalLM.from_pretrained(packed, tp_plan="auto")
    check_split(model, whole)
    check_refused(("save_pretrained",), quantload.save_model, model, "nowhere")
    check_refused(("save_pretrained",), model.dequantize)
    told = method != "toy8"  # its author did not say how parts are joined
    if told:
        check_saved(model, out / f"{method}-split", packed)
    else:
        check_refused(("q_proj", "join_stored"), model.save_pretrained, out)
    tell(f"{method} packed")
    model = AutoModelForCausalLM.from_pretrained(
        tiny,
        distributed_config=DistributedConfig(tp_plan="auto"),
        quantization_config=METHODS[method],
    )
    check_split(model, whole)
    if told:
        check_saved(model, out / f"{method}-made", packed)
    tell(f"{method} quantized on load")


def main() -> None:
    warnings.simplefilter("ignore")
    quantload.enable_transformers()
    for name, plugin in {"toy8": TOY8, "hqq": HQQ, "rtn8": RTN8}.items():
        quantload.register(name, plugin)
    tiny, experts, out, *rest = sys.argv[1:]
    for method, packed in zip(rest[::2], rest[1::2], strict=True):
        check(method, Path(packed), Path(tiny), Path(out))
    for folder, options in (
        (experts, {}),
        (f"{experts}-float", {"quantization_config": METHODS["nf4"]}),
    ):
        model = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", **options)
        wanted = logits(quantload.load_model(experts))
        torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=1e-4)
        check_saved(model, Path(f"{out}/experts-{len(options)}"), Path(experts))
    tell("experts equal, and saved")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
