"""diffusers: a pipeline whose transformer is packed by `load_into`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packings import CONFIGS

pytest.importorskip("diffusers")

import accelerate
import diffusers

import quantload
from quantload.plugin import PackedWeight


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Folder of a small random diffusion transformer, and a VAE and a scheduler for it."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,  # the pipeline takes number 1000 for no class
    )
    for parameter in transformer.parameters():  # what starts at zero would show nothing
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("dit")
    transformer.save_pretrained(folder)
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4)
    return folder, vae.eval(), diffusers.DDIMScheduler()


def picture(transformer: Any, vae: Any, scheduler: Any) -> np.ndarray:
    pipe = diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    made = pipe(class_labels=[1], num_inference_steps=3, generator=generator, output_type="np")
    return made.images


@pytest.mark.parametrize("way", ["nf4", "int8", "gptq", "gguf"])
def test_a_pipeline_runs_on_packed_weights(way: str, parts: tuple[Path, Any, Any]) -> None:
    folder, vae, scheduler = parts
    cls = diffusers.DiTTransformer2DModel
    wanted = picture(cls.from_pretrained(folder).eval(), vae, scheduler)

    with accelerate.init_empty_weights():  # position tables are buffers that no file holds
        model = cls.from_config(cls.load_config(folder)).eval()
    file = folder / "diffusion_pytorch_model.safetensors"
    report = quantload.load_into(model, file, quantization_config=CONFIGS[way])
    assert report.clean
    packed = [module for module in model.modules() if isinstance(module, PackedWeight)]
    assert len(packed) >= 12
    found = picture(model, vae, scheduler)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < (0.02 if way in ("int8", "gguf") else 0.2)
    assert not np.array_equal(found, wanted), "nothing was quantized"

    exact = picture(quantload.dequantize(model).float(), vae, scheduler)
    np.testing.assert_allclose(found, exact, atol=5e-3)
