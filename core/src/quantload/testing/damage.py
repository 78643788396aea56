"""Checks of what a method does with damaged checkpoints: a `CheckpointError`, always."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantload.errors import CheckpointError
from quantload.testing.declared import LAYER, MethodSuite


class DamageChecks(MethodSuite):
    """Missing, truncated, mistaken and random tensors."""

    def test_a_missing_tensor_is_a_checkpoint_error(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """Each in turn, from the headers or when packing."""
        tensors = self.checkpoint_tensors(config, shape)
        for key in self._needed(tensors):
            self._refused(config, _without(tensors, key), f"without {key}")
        self._refused(config, {}, "without any tensor")

    def test_a_truncated_tensor_is_a_checkpoint_error(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """Each in turn, one element short along each dimension; or it is a smaller layer."""
        tensors = self.checkpoint_tensors(config, shape)
        for told, changed in _truncated(tensors):
            pack = partial(self.quantizer(config).pack, LAYER, changed)
            if _refusal(told, pack) is None:
                assert tuple(pack().shape) != shape, f"{told} it is a layer of {list(shape)}"

    def test_a_tensor_of_another_kind_is_a_checkpoint_error(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """Each in turn, floats for integers and the other way round."""
        tensors = self.checkpoint_tensors(config, shape)
        for key, tensor in tensors.items():
            kind = torch.int64 if tensor.is_floating_point() else torch.float64
            told = f"with {key} as {kind}"
            self._refused(config, {**tensors, key: torch.zeros_like(tensor, dtype=kind)}, told)

    def test_tensors_that_are_not_those_of_the_headers_are_a_checkpoint_error(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """The headers said more than the files hold."""
        tensors = self.checkpoint_tensors(config, shape)
        spec = self.spec(config, shape, torch.float32)
        cases = [(f"without {key}", _without(tensors, key)) for key in self._needed(tensors)]
        for told, changed in (*cases, *_truncated(tensors)):
            refusal = _refusal(told, partial(self.quantizer(config).pack, spec, changed))
            assert refusal is not None, f"{told} the layer was packed"

    def test_garbage_ends_in_numbers_or_in_a_checkpoint_error(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """Random bytes in each tensor in turn: wrong numbers at worst, never a crash."""
        tensors = self.checkpoint_tensors(config, shape)
        for key, tensor in tensors.items():
            for broken in _garbage(tensor):
                changed = {**tensors, key: broken}
                _refusal(f"with garbage in {key}", partial(self._decode, config, changed))

    def _needed(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return [key for key in tensors if key not in self.optional_tensors]

    def _refused(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], told: str) -> None:
        refusal = _refusal(told, lambda: self.quantizer(config).pack(LAYER, tensors))
        assert refusal is not None, f"{told} the layer was packed; it should be a CheckpointError"

    def _decode(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        weight = self.quantizer(config).pack(LAYER, tensors)
        assert tuple(weight.dequantize(torch.float32).shape) == tuple(weight.shape)


def _refusal(told: str, call: Callable[[], object]) -> CheckpointError | None:
    """The `CheckpointError` that a call ends in, None where it ends well.

    Raises:
        AssertionError: it ends in anything else, or in an error without a message.
    """
    try:
        call()
    except CheckpointError as error:
        if not str(error).strip():
            raise AssertionError(f"{told}: an error without a message") from error
        return error
    except Exception as error:
        raise AssertionError(
            f"{told}: {type(error).__name__}: {error}; it should be a CheckpointError"
        ) from error
    return None


def _without(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k != key}


def _truncated(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each tensor in turn, one element short along each of its dimensions."""
    for key, tensor in tensors.items():
        for dim in range(tensor.ndim):
            short = tensor.narrow(dim, 0, tensor.shape[dim] - 1).clone()
            yield f"with {key} one short along dimension {dim}", {**tensors, key: short}


def _garbage(tensor: Tensor) -> Iterator[Tensor]:
    """Tensors of the same dtype and shape with other bytes."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = torch.randint(0, 256, (tensor.nbytes,), generator=generator, dtype=torch.uint8)
        yield data.view(tensor.dtype).reshape(tensor.shape)
    yield torch.zeros_like(tensor)
    ones = torch.full((tensor.nbytes,), 255, dtype=torch.uint8)
    yield ones.view(tensor.dtype).reshape(tensor.shape)
