"""`Verdict`: a yes, or a no that says why and what would mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done.

    Attributes:
        ok: the answer; `bool(verdict)` gives it too.
        reason: why not, in words (or a remark where `ok`).
        fix: a command or step that turns the no into a yes, or "".
    """

    ok: bool
    reason: str = ""
    fix: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = "yes" if self.ok else "no"
        tail = f" (try: {self.fix})" if self.fix else ""
        return f"{head}: {self.reason}{tail}" if self.reason else f"{head}{tail}"

    @classmethod
    def yes(cls, reason: str = "") -> Verdict:
        """An `ok` verdict."""
        return cls(True, reason)

    @classmethod
    def no(cls, reason: str, fix: str = "") -> Verdict:
        """A verdict that is not `ok`; a reason is owed."""
        return cls(False, reason, fix)

    @classmethod
    def all(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """The conjunction: every reason and every fix of those that are not `ok`."""
        failed = [v for v in verdicts if not v]
        if not failed:
            return cls(True)
        reasons = "; ".join(dict.fromkeys(v.reason for v in failed if v.reason))
        fixes = " && ".join(dict.fromkeys(v.fix for v in failed if v.fix))
        return cls(False, reasons, fixes)
