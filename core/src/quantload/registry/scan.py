"""Reading the entry points of everything installed."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from pathlib import Path

from quantload.registry.entrypoints import parse_entry_points
from quantload.registry.records import GROUPS, EntryRecord, distribution_key, shown

logger = logging.getLogger(__name__)

Distribution = importlib.metadata.Distribution


def scan() -> tuple[EntryRecord, ...]:
    """Every entry point of quantload's groups, sorted by group, name and distribution.

    One distribution may be seen several times (an editable install beside a
    wheel, a path twice on `sys.path`): the one in the first folder on `sys.path`
    counts, for it is what an import would find; of several in one folder (left
    behind by an interrupted upgrade) the highest version. Damaged metadata makes
    records that say what is wrong.
    """
    found: list[EntryRecord] = []
    for key, rivals in _by_name().items():
        chosen = _first(rivals)
        text = _entry_points_text(chosen)
        if text:
            found.extend(_records(chosen, key, text))
    return tuple(
        sorted(found, key=lambda r: (r.group, r.name, distribution_key(r.distribution), r.value))
    )


def _by_name() -> dict[str, list[Distribution]]:
    """Distributions with entry points of ours, each with all others of its name, in path order.

    The names of all others are told from their folders: parsing the metadata of
    everything installed is what makes a scan slow.
    """
    everything = [d for d in _distributions() if not _folder(d).name.startswith("~")]
    ours = {id(d): _key(d) for d in everything if _entry_points_text(d)}
    keys = set(ours.values())
    named: dict[str, list[Distribution]] = {}
    for distribution in everything:
        key = ours.get(id(distribution)) or _shadow_key(distribution, keys)
        if key:
            named.setdefault(key, []).append(distribution)
    return named


def _shadow_key(distribution: Distribution, keys: set[str]) -> str:
    """Which of `keys` is the name of a distribution without entry points of ours, or ""."""
    stem = distribution_key(_folder(distribution).name)
    if any(stem.startswith(key) for key in keys):
        key = _key(distribution)
        return key if key in keys else ""
    return ""


def _distributions() -> Iterator[Distribution]:
    try:
        yield from importlib.metadata.distributions()
    except Exception as error:  # noqa: BLE001  a foreign finder on sys.meta_path may do anything
        logger.warning("a finder of installed distributions failed: %s", error)


def _entry_points_text(distribution: Distribution) -> str:
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except Exception as error:  # noqa: BLE001  any damage in one folder must not hide the rest
        logger.warning("%s: entry_points.txt cannot be read: %s", _folder(distribution), error)
        return ""
    return text if any(group in text for group in GROUPS) else ""


def _folder(distribution: Distribution) -> Path:
    return Path(str(getattr(distribution, "_path", "an unnamed place")))


def _name(distribution: Distribution) -> str:
    """The name in the metadata; where that is damaged, the name of its folder."""
    try:
        name = _field(distribution.metadata, "Name")
    except Exception:  # noqa: BLE001  `_records` reports it
        name = ""
    return name or _folder(distribution).name.partition("-")[0]


def _field(metadata: importlib.metadata.PackageMetadata, name: str) -> str:
    return str(metadata[name]).strip() if name in metadata else ""


def _key(distribution: Distribution) -> str:
    return distribution_key(_name(distribution))


def _first(rivals: list[Distribution]) -> Distribution:
    place = _folder(rivals[0]).parent
    beside = [d for d in rivals if _folder(d).parent == place]
    if len(beside) == 1:
        return rivals[0]
    chosen = max(beside, key=_age)
    logger.warning(
        "%s holds %d versions of %s; %s counts, remove the others",
        place,
        len(beside),
        _name(chosen),
        _folder(chosen).name,
    )
    return chosen


def _age(distribution: Distribution) -> tuple[bool, object, str]:
    from packaging.version import InvalidVersion, Version

    folder = _folder(distribution).name
    try:
        return True, Version(_field(distribution.metadata, "Version")), folder
    except (InvalidVersion, TypeError, UnicodeDecodeError):
        return False, Version("0"), folder


def _records(distribution: Distribution, key: str, text: str) -> Iterator[EntryRecord]:
    folder = _folder(distribution)
    version, damage = "", ""
    requires: tuple[str, ...] = ()
    try:
        version = _field(distribution.metadata, "Version")
        requires = tuple(distribution.requires or ())
        if not _field(distribution.metadata, "Name"):
            damage = "its metadata has no name"
    except Exception as error:  # noqa: BLE001  any damage in one folder must not hide the rest
        damage = f"its metadata cannot be read ({type(error).__name__}: {error})"
    for entry in parse_entry_points(text):
        problem = damage or entry.problem
        if problem:
            logger.warning("%s: %s %s: %s", folder, entry.group, shown(entry.name), problem)
        yield EntryRecord(
            group=entry.group,
            name=entry.name,
            value=entry.value,
            distribution=key if damage else _name(distribution),
            version=version,
            requires=requires,
            location=str(folder),
            problem=problem,
        )
