"""`QuantizedExperts`: experts that a class keeps in 3-D parameters, as layers to be packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.modules import grouping
from quantload.modules.grouping import Group


@dataclass(frozen=True)
class ExpertsLayout:
    """How a module keeps its experts, and what one of them computes.

    An expert is `last(activation(first(x)))`, and both products have a 3-D parameter,
    `[experts, out_features, in_features]`, in which those of all experts lie.

    Attributes:
        count: number of experts.
        first: name of the parameter of the first product.
        parts: names for the layers whose rows lie in it one after the other, in equal
            numbers.
        last: name of the parameter of the last product, and for its layer.
        activation: the module and what the first product gave, `[rows, out_features]`
            -> what goes into the last one. A function of a module, for it is pickled.
        transposed: the parameters are `[experts, in_features, out_features]`.
        first_bias: name of a parameter `[experts, out_features]`; "" where there is none.
        last_bias: likewise.
        norm: name of a child that is applied to what an expert gave; "" for none.
        blocks: the module is given all tokens once for each expert, weighted already, and
            no choice: an expert to which a token was not sent gets zeros for it.
    """

    count: int
    first: str
    parts: tuple[str, ...]
    last: str
    activation: Callable[[nn.Module, Tensor], Tensor]
    transposed: bool = False
    first_bias: str = ""
    last_bias: str = ""
    norm: str = ""
    blocks: bool = False

    @property
    def stacks(self) -> dict[str, tuple[str, ...]]:
        """Name of each 3-D parameter -> names of the layers that lie in it."""
        return {self.first: self.parts, self.last: (self.last,)}

    def split(self, stack: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The layers' names ("3.up_proj") and weights, as views.

        Args:
            stack: name of the 3-D parameter.
            tensor: what it holds, or what is to become of it.
        """
        parts = self.stacks[stack]
        for number, matrix in enumerate(tensor):
            rows = matrix.t() if self.transposed else matrix
            for part, own in zip(parts, rows.chunk(len(parts)), strict=True):
                yield f"{number}.{part}", own

    def join(self, stack: str, weights: list[list[Tensor]]) -> Tensor:
        """The 3-D parameter from the weights of each expert's layers."""
        matrices = [torch.cat(own) if len(own) > 1 else own[0] for own in weights]
        joined = torch.stack(matrices)
        return joined.transpose(1, 2).contiguous() if self.transposed else joined


class Expert(nn.Module):
    """The layers of one expert. `QuantizedExperts` runs them."""


class QuantizedExperts(nn.Module):
    """Takes the place of a module that keeps its experts in 3-D parameters.

    Every expert is a child, named by its number, with a linear layer for each of its
    matrices (`experts.3.up_proj`), as most checkpoints have them. Those layers are
    ordinary ones: packed or float, each with a kernel, a device and adapters of its own.
    Only experts that a token was sent to are run: one after the other, or a few choices
    as a group, where the weights of all lie together (see `grouping`).

    Args:
        layout: what the module says of its experts.
        blueprint: the module itself, whose 3-D parameters are given up; it comes back
            when the model is dequantized. On meta: the layers have no bytes either.
    """

    def __init__(self, layout: ExpertsLayout, blueprint: nn.Module) -> None:
        super().__init__()
        self.layout = layout
        self.num_experts = layout.count
        self.own: frozenset[int] | None = None  # all of them
        self.groups: dict[str, Group] | None = None
        self.blueprint = (blueprint,)
        self.training = blueprint.training
        self._is_hf_initialized = True
        for number in range(layout.count):
            self.add_module(str(number), Expert())
        for stack in layout.stacks:
            parameter = blueprint._parameters[stack]
            assert parameter is not None
            for name, weight in layout.split(stack, parameter.detach()):
                expert, _, part = name.partition(".")
                self.get_submodule(expert).add_module(part, _linear(weight))
            blueprint._parameters[stack] = None
        for name, parameter in blueprint._parameters.items():
            if parameter is not None:  # biases keep their names
                self.register_parameter(name, parameter)
        for name, child in blueprint.named_children():
            self.add_module(name, child)

    def forward(
        self,
        hidden_states: Tensor,
        top_k_index: Tensor | None = None,
        top_k_weights: Tensor | None = None,
    ) -> Tensor:
        """What the experts give that every token was sent to, weighted and added.

        Args:
            hidden_states: `[tokens, features]`; `[experts * tokens, features]` where the
                layout has blocks.
            top_k_index: `[tokens, choices]`, numbers of experts. One past the last
                stands for an expert that another process has. None for blocks.
            top_k_weights: `[tokens, choices]`. None for blocks.

        Returns:
            Of the shape and dtype of `hidden_states`.
        """
        if self.layout.blocks:
            from quantload.modules.routing import run_blocks

            given: Tensor = run_blocks(self, hidden_states)
            return given
        assert top_k_index is not None
        assert top_k_weights is not None
        found: Tensor
        if self.groups is not None and self._few(hidden_states, top_k_index, top_k_weights):
            found = grouping.run(self, self.groups, hidden_states, top_k_index, top_k_weights)
            return found
        from quantload.modules.routing import run

        found = run(self, hidden_states, top_k_index, top_k_weights)
        return found

    def group(self) -> None:
        """Let the weights of all experts lie together, where they and their kernel allow it."""
        apart = self.own is not None or self.layout.blocks
        self.groups = None if apart else grouping.grouped(self)

    def check_group(self) -> None:
        """Give the group up once a layer is not what it was: adapted, merged, moved, or watched."""
        if self.groups is not None and not grouping.still(self, self.groups):
            self.groups = None

    def _few(self, x: Tensor, chosen: Tensor, weights: Tensor) -> bool:
        """Whether so few choices were made, and for no gradient, that they run as a group."""
        if not 0 < chosen.numel() <= grouping.MOST:
            return False
        if torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad):
            return False
        if not torch.compiler.is_compiling():
            self.check_group()
        return self.groups is not None

    def keep(self, numbers: Iterable[int]) -> None:
        """Let go of all experts but these: other processes have them, and outputs are added up."""
        self.groups = None
        self.own = frozenset(numbers)
        for number in range(self.num_experts):
            if number not in self.own:
                self._modules.pop(str(number), None)

    def expert(self, number: int, x: Tensor) -> Tensor:
        """What one expert gives for `[rows, features]`."""
        return self.between(
            lambda part, inner: self._layer(number, part)(inner),
            lambda name: self.bias(name)[number],
            x,
        )

    def between(
        self,
        layer: Callable[[str, Tensor], Tensor],
        bias: Callable[[str], Tensor],
        x: Tensor,
    ) -> Tensor:
        """What is computed between the products of experts, and with them.

        Args:
            layer: name of a layer and its input -> its product.
            bias: name of a bias -> its rows, or the one row, for that product.
            x: `[rows, features]`.
        """
        layout = self.layout
        parts = [layer(part, x) for part in layout.parts]
        inner = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        if layout.first_bias:
            inner = inner + bias(layout.first_bias).to(inner)
        (module,) = self.blueprint
        outer = layer(layout.last, layout.activation(module, inner))
        if layout.last_bias:
            outer = outer + bias(layout.last_bias).to(outer)
        if layout.norm:
            outer = self.get_submodule(layout.norm)(outer)
        return outer

    def _layer(self, number: int, part: str) -> nn.Module:
        expert = self._modules[str(number)]
        layer = expert._modules[part] if expert is not None else None
        assert layer is not None
        return layer

    def bias(self, name: str) -> Tensor:
        """A bias of all experts, `[experts, out_features]`."""
        bias = self._parameters[name]
        assert bias is not None
        return bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedExperts:
        together, self.groups = self.groups is not None, None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        if together:
            self.group()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold every expert's own storage."""
        return {**self.__dict__, "groups": self.groups is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        together = state.pop("groups", False)
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.groups = None
        if together:
            self.group()

    def joined(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The module whose place this one takes, once all layers are float.

        Args:
            dtype: of the parameters; where None, that of the first layer.

        Raises:
            UnsupportedOperationError: other processes have some of the experts.
        """
        if self.own is not None:
            raise UnsupportedOperationError(
                f"this process has {len(self.own)} of {self.num_experts} experts: load the model "
                f"without tp_plan= to dequantize it"
            )
        (module,) = self.blueprint
        for stack, parts in self.layout.stacks.items():
            weights = [
                [self.get_parameter(f"{number}.{part}.weight").detach() for part in parts]
                for number in range(self.num_experts)
            ]
            wanted = dtype or weights[0][0].dtype
            cast = [[weight.to(wanted) for weight in own] for own in weights]
            module.register_parameter(
                stack, nn.Parameter(self.layout.join(stack, cast), requires_grad=False)
            )
        for name, parameter in self._parameters.items():
            assert parameter is not None
            kept = nn.Parameter(parameter.detach().to(dtype or parameter.dtype), False)
            module.register_parameter(name, kept)
        return module.train(self.training)

    def __repr__(self) -> str:
        """All experts in one, where they are alike."""
        held = (self._modules.get(str(n)) for n in range(self.num_experts))
        experts = nn.ModuleList(expert for expert in held if expert is not None)
        return repr(experts).replace("ModuleList", type(self).__name__, 1)


def _linear(weight: Tensor) -> nn.Linear:
    """A layer with nothing but a weight of this shape, on meta."""
    rows, columns = weight.shape
    return nn.Linear(columns, rows, bias=False, device="meta", dtype=weight.dtype)
