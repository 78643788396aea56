"""Configs that break a promise of `ConfigSuite`."""

from __future__ import annotations

import dataclasses

from toy8.config import Toy8Config

from broken import case
from quantload.plugin import option


def config(cls):
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@case("test_nonsense_is_refused")
@config
class TakesAnything(Toy8Config):
    @classmethod
    def normalize(cls, raw):
        return {k: v for k, v in raw.items() if k not in ("limit", "scale_dtype", "skip")}


@case("test_nonsense_is_refused")
@config
class RaisesSomethingElse(Toy8Config):
    def __post_init__(self):
        try:
            super().__post_init__()
        except ValueError as error:
            raise TypeError from error


@case("test_junk_in_a_field_is_refused_or_kept_and_never_crashes")
@config
class TripsOverJunk(Toy8Config):
    @classmethod
    def normalize(cls, raw):
        if "skip" in raw and raw["skip"] is not None:
            raw["skip"] = [name.strip() for name in raw["skip"]]
        return raw


@case("test_what_is_written_can_be_read_back")
@config
class ForgetsAField(Toy8Config):
    def to_dict(self):
        return {k: v for k, v in super().to_dict().items() if k != "limit"}


@case("test_what_is_written_can_be_read_back")
@config
class WritesAnotherSpelling(Toy8Config):
    def to_diff_dict(self):
        return {"max": 3, **super().to_diff_dict()}


@case("test_what_is_written_is_json")
@config
class WritesTuples(Toy8Config):
    def to_dict(self):
        return {**super().to_dict(), "skip": tuple(self.skip or ())}


@case("test_unknown_keys_survive")
@config
class DropsUnknownKeys(Toy8Config):
    @classmethod
    def normalize(cls, raw):
        names = {f.name for f in dataclasses.fields(cls)}
        return {k: v for k, v in raw.items() if k in names}


@case("test_normalizing_twice_changes_nothing")
@config
class HalvesEachTime(Toy8Config):
    @classmethod
    def normalize(cls, raw):
        raw["limit"] = raw.get("limit", 127) // 2 + 1
        return raw


@case("test_the_dict_that_is_read_is_not_changed")
@config
class ChangesTheCallersDict(Toy8Config):
    @classmethod
    def from_dict(cls, config_dict, **overrides):
        made = super().from_dict(config_dict, **overrides)
        config_dict.pop("quant_method", None)
        return made


@case("test_copies_and_pickles_are_equal")
@config
class CopiesDiffer(Toy8Config):
    def __deepcopy__(self, memo):
        return type(self)(limit=1)


@case("test_fields_declare_their_part_in_loading")
@config
class LoadingAndInert(Toy8Config):
    speed: int = option(1, loading=True, inert=True)


@case("test_fields_declare_their_part_in_loading")
@config
class DeclaresWhatIsNotThere(Toy8Config):
    @classmethod
    def loading_fields(cls):
        return super().loading_fields() | {"nothing"}


@case("test_merging_with_itself_changes_nothing")
@config
class GrowsWhenReplaced(Toy8Config):
    def replace(self, **changes):
        return super().replace(**{**changes, "limit": self.limit % 127 + 1})


@case("test_a_passed_default_never_contradicts")
@config
class DefaultsThatAreNone(Toy8Config):
    @classmethod
    def from_dict(cls, config_dict, **overrides):
        made = super().from_dict(config_dict, **overrides)
        only_method = set(config_dict) <= {"quant_method"}
        return made.replace(limit=126) if only_method else made


@case("test_a_sample_gives_the_methods_config")
@config
class BecomesSomethingElse(Toy8Config):
    @classmethod
    def from_dict(cls, config_dict, **overrides):
        return Toy8Config.from_dict(config_dict, **overrides)


@case("test_there_is_nonsense_to_refuse", declared={"nonsense": ()})
@config
class NobodySaysWhatIsWrong(Toy8Config):
    pass


@case("test_the_class_is_a_dataclass_of_its_own")
class NotDecorated(Toy8Config):
    own: int = 3
