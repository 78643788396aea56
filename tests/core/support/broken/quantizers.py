"""Quantizers that break a promise of `QuantizerSuite` or of `WeightSuite`."""

from __future__ import annotations

import torch
from toy8.quantizer import Toy8Quantizer
from toy8.weight import Toy8Weight

from broken import case
from quantload.modules import hosts_of
from quantload.plugin import CheckpointError, ModuleSpec, QuantizerPlugin, Verdict
from quantload.quantizers.targets import quantizable_modules

UNPACK = "test_unpack_gives_the_packed_tensors_back"
AGAIN = "test_quantize_unpack_pack_is_the_same_weight"
EXACT = "test_quantizing_is_as_exact_as_declared"
BUFFER = "test_quantizing_keeps_nothing_of_the_float_weight"
EMPTY = "test_the_empty_weight_is_like_the_packed_one"
EMPTY_MADE = "test_the_empty_weight_is_like_the_quantized_one"


@case(AGAIN, suite="weight")
class WritesScalesInHalf(Toy8Quantizer):
    def unpack_weight(self, spec, weight):
        return {**weight.storage(), "scales": weight.scales.half()}


@case(UNPACK, suite="weight")
class WritesItsOwnNumbers(Toy8Quantizer):
    def unpack_weight(self, spec, weight):
        return {**weight.storage(), "scales": weight.scales * 1.001}


@case(UNPACK, suite="weight")
class ChangesWhatItReads(Toy8Quantizer):
    def pack_weight(self, spec, tensors):
        tensors["codes"].neg_()
        tensors["scales"].neg_()
        return super().pack_weight(spec, tensors)

    def unpack_weight(self, spec, weight):
        return {"codes": -weight.codes, "scales": -weight.scales}


@case(AGAIN, suite="weight")
class MakesWhatItCannotRead(Toy8Quantizer):
    def quantize(self, spec, weight, device=None):
        made = super().quantize(spec, weight, device)
        return self.weight_class(made.codes.flip(0), made.scales.flip(0), made.dtype)

    def unpack_weight(self, spec, weight):
        return {"codes": weight.codes.flip(0), "scales": weight.scales.flip(0)}


@case(EXACT, suite="weight")
class Coarse(Toy8Quantizer):
    def quantize(self, spec, weight, device=None):
        made = super().quantize(spec, weight, device)
        return self.weight_class(made.codes // 32 * 32, made.scales, made.dtype)


@case(EXACT, suite="weight")
class ChangesTheFloatWeight(Toy8Quantizer):
    def quantize(self, spec, weight, device=None):
        made = super().quantize(spec, weight, device)
        weight.zero_()
        return made


@case(BUFFER, suite="weight")
class KeepsTheBuffer(Toy8Quantizer):
    class weight_class(Toy8Weight):  # noqa: N801  takes the place of an attribute
        source = None

        def decode(self, dtype):
            whole = super().decode(torch.float32) if self.source is None else self.source
            return whole.to(dtype)

    def quantize(self, spec, weight, device=None):
        made = super().quantize(spec, weight, device)
        made.__dict__["source"] = weight
        return made


@case(BUFFER, suite="weight")
class KeepsAView(Toy8Quantizer):
    def quantize(self, spec, weight, device=None):
        made = super().quantize(spec, weight, device)
        if weight.dtype != torch.float32:
            return made
        weight[:, 0] = made.scales.float()
        return self.weight_class(made.codes, weight[:, 0], made.dtype)


@case(EMPTY, suite="weight")
class EmptyOfAnotherDtype(Toy8Quantizer):
    def empty(self, spec):
        made = super().empty(spec)
        made.store("scales", made.scales.double())
        return made


@case(EMPTY, suite="weight")
class EmptyWithBytes(Toy8Quantizer):
    def empty(self, spec):
        return self.weight_class(
            torch.zeros(spec.shape, dtype=torch.int8), torch.zeros(spec.shape[0]), spec.dtype
        )


@case(EMPTY_MADE, suite="weight")
class EmptyNeedsTensors(Toy8Quantizer):
    def empty(self, spec):
        if not spec.tensors:
            return super().empty(spec.replace(shape=spec.shape[::-1]))
        return super().empty(spec)


# -- what it says of itself -------------------------------------------------------------


@case("test_it_is_available_here", suite="quantizer")
class AvailableAsATuple(Toy8Quantizer):
    def is_available(self):
        return (True, "")


@case("test_a_requirement_that_is_not_met_is_named_with_what_mends_it", suite="quantizer")
class AlwaysAvailable(Toy8Quantizer):
    def is_available(self):
        return Verdict.yes()


@case("test_a_device_it_does_not_run_on_is_refused_before_loading", suite="quantizer")
class TakesAnyDevice(Toy8Quantizer):
    def validate_environment(self, device_map=None, **kwargs):
        return


@case("test_the_environment_is_accepted_as_it_is", suite="quantizer")
class RefusesTheCpu(Toy8Quantizer):
    def supports_device(self, device_type):
        return Verdict.no("no") if device_type == "cpu" else super().supports_device(device_type)


@case("test_what_was_declared_is_what_it_says", suite="quantizer")
class SecretlyUntrainable(Toy8Quantizer):
    is_trainable = False


@case("test_what_was_declared_is_what_it_says", suite="quantizer")
class SerializableAsABool(Toy8Quantizer):
    def is_serializable(self):
        return True


@case("test_its_method_is_that_of_its_config", suite="quantizer")
class ForgetsItsSettings(Toy8Quantizer):
    def __init__(self, config, **kwargs):
        super().__init__(config)


@case("test_every_device_that_is_promised_and_here_is_tested", suite="quantizer")
class PromisesAnotherDevice(Toy8Quantizer):
    pass


# -- what it claims ---------------------------------------------------------------------


@case("test_nothing_is_claimed_of_a_float_checkpoint", suite="quantizer")
class ClaimsEverything(Toy8Quantizer):
    def claims(self, headers):
        found = super().claims(headers)
        return found or {
            n.removesuffix(".weight"): ModuleSpec(n.removesuffix(".weight"), shape=h.shape)
            for n, h in headers.items()
            if n.endswith(".weight") and len(h.shape) == 2
        }


@case("test_the_packed_modules_of_a_checkpoint_are_claimed_and_no_others", suite="quantizer")
class ClaimsOneLayerOnly(Toy8Quantizer):
    def claims(self, headers):
        return dict(list(super().claims(headers).items())[:1])


@case("test_the_packed_modules_of_a_checkpoint_are_claimed_and_no_others", suite="quantizer")
class LooksIntoTensors(Toy8Quantizer):
    def claims(self, headers):
        for header in headers.values():
            header.sum()
        return super().claims(headers)


@case("test_the_packed_modules_of_a_checkpoint_are_claimed_and_no_others", suite="quantizer")
class SpecsWithoutTensors(Toy8Quantizer):
    def claims(self, headers):
        return {n: spec.replace(tensors={}) for n, spec in super().claims(headers).items()}


@case("test_a_bare_name_is_enough_to_pack", suite="quantizer")
class NeedsASpec(Toy8Quantizer):
    def spec_for(self, name, tensors):
        raise CheckpointError("a spec, please")


@case("test_a_missing_tensor_is_a_checkpoint_error", suite="quantizer")
class KeyErrors(Toy8Quantizer):
    def claims(self, headers):
        modules = {n.rpartition(".")[0] for n in headers if n.endswith((".codes", ".scales"))}
        return {
            m: ModuleSpec(
                m,
                shape=headers[f"{m}.codes"].shape,
                tensors={"codes": headers[f"{m}.codes"], "scales": headers[f"{m}.scales"]},
            )
            for m in modules
        }


class _Trusting(Toy8Quantizer):
    def claims(self, headers):
        return {
            n.removesuffix(".codes"): ModuleSpec(
                n.removesuffix(".codes"),
                shape=(24, 64),
                tensors={k: headers[n.removesuffix("codes") + k] for k in ("codes", "scales")},
            )
            for n in headers
            if n.endswith(".codes") and n.removesuffix("codes") + "scales" in headers
        }

    def pack_weight(self, spec, tensors):
        made = self.weight_class(tensors["codes"], tensors["scales"], spec.dtype or torch.float32)
        made._shape = torch.Size(spec.shape)
        return made


@case("test_a_truncated_tensor_is_a_checkpoint_error", suite="quantizer")
class TakesTruncatedTensors(_Trusting):
    pass


@case("test_a_tensor_of_another_kind_is_a_checkpoint_error", suite="quantizer")
class TakesAnyKind(_Trusting):
    pass


@case("test_tensors_that_are_not_those_of_the_headers_are_a_checkpoint_error", suite="quantizer")
class BelievesTheHeaders(_Trusting):
    pass


@case("test_garbage_ends_in_numbers_or_in_a_checkpoint_error", suite="quantizer")
class TripsOverGarbage(Toy8Quantizer):
    def pack_weight(self, spec, tensors):
        if not torch.isfinite(tensors["scales"]).all():
            raise ValueError("scales")
        return super().pack_weight(spec, tensors)


# -- the model --------------------------------------------------------------------------


@case("test_targets_of_a_float_model_get_hosts", suite="quantizer")
class IgnoresTheSkipList(Toy8Quantizer):
    def targets(self, model):
        return quantizable_modules(model)


@case("test_a_weight_that_is_not_finite_is_refused", suite="quantizer")
class MakesNumbersOfNaN(Toy8Quantizer):
    def quantize(self, spec, weight, device=None):
        return super().quantize(spec, torch.nan_to_num(weight, 0.0, 0.0, 0.0), device)


@case(
    "test_quantizing_is_refused_where_it_was_declared_impossible",
    suite="quantizer",
    declared={"can_quantize": False},
)
class QuantizesInSecret(Toy8Quantizer):
    pass


@case(
    "test_a_float_checkpoint_is_refused_where_data_is_needed",
    suite="quantizer",
    declared={"requires_calibration": True},
)
class NeedsNoDataAfterAll(Toy8Quantizer):
    pass


@case("test_a_model_that_was_loaded_is_saved_byte_for_byte", suite="quantizer")
class TouchesUpAfterLoading(Toy8Quantizer):
    def postprocess_model(self, model, **kwargs):
        for _, host in hosts_of(model):
            host.weight.scales.data.mul_(1.5)
        return model


@case(
    "test_a_model_that_was_loaded_is_saved_byte_for_byte",
    suite="quantizer",
    declared={"serializable": False},
)
class SavesThoughDeclaredNot(Toy8Quantizer):
    pass


@case("test_a_model_becomes_float_layers_of_the_same_numbers", suite="quantizer")
class LeavesLayersPacked(Toy8Quantizer):
    def dequantize(self, model, dtype=None):
        return model


@case("test_quantizing_on_load_is_quantizing", suite="quantizer")
class QuantizesWhatThePreprocessingLeft(Toy8Quantizer):
    def targets(self, model):
        found = super().targets(model)
        return {name: spec for name, spec in found.items() if name != "second"}


# -- descriptors -------------------------------------------------------------------------


def descriptor(**changes):
    fields = {"api": 1, "requires": ("torch>=2.8",), "summary": "broken", **changes}
    return lambda config, quantizer: QuantizerPlugin(config=config, quantizer=quantizer, **fields)


@case(
    "test_the_method_is_found_where_it_should_be", suite="quantizer", plugin=descriptor(summary="")
)
class NoSummary(Toy8Quantizer):
    pass


@case(
    "test_listing_shows_it_ready",
    suite="quantizer",
    plugin=descriptor(requires=("quantload-no-such-package",)),
)
class NotInstalledAtAll(Toy8Quantizer):
    pass
