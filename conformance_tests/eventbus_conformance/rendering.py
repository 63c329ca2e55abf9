"""The templates of the matrix, and how they show values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eventbus_conformance.contract import LEVELS
from eventbus_conformance.needs import NEEDS, met
from eventbus_conformance.outcomes import WORST_FIRST, Outcome
from eventbus_conformance.reports import TAKEOVERS, ClauseText, Report

Said: TypeAlias = Outcome | None
"""An outcome; None: the level of the clause was not run."""

NONE: Final = "\N{EN DASH}"
"""Where there is nothing to say."""

MEANINGS: Final[Mapping[Said, str]] = {
    "pass": "Its tests ran, and none failed.",
    "refused as declared": "The backend denies the capability, and a probe showed that it does.",
    "not proven": "Something that the tests need is not there.",
    "known failure": "It fails, for a reason that is tracked.",
    "unknown": "The run showed nothing.",
    "fail": "A test failed.",
    None: "The run was of other levels.",
}
_TONES: Final[Mapping[Said, str]] = {
    "pass": "good",
    "not proven": "plain",
    "known failure": "warn",
    "unknown": "warn",
    "fail": "bad",
}
_MARKS: Final[Mapping[Said, str]] = {
    "pass": "✓",
    "refused as declared": NONE,
    "not proven": "?",
    "known failure": "✗",
    "unknown": "?",
    "fail": "✗",
}
COUNTS: Final = {
    "sent": "records sent",
    "stored": "records stored",
    "delivered": "deliveries",
    "handled": "records handled",
    "repeated": "duplicates: handled again",
    "moves": "moves of a partition",
    "faults": "faults",
    "members killed": "members killed",
    "members frozen": "members frozen",
    "brokers killed": "brokers killed",
}
"""The sums of the reports that tell how much was shown, and what they are called here."""


def rendered(template: str, reports: Sequence[Report]) -> str:
    """A template of the matrix, with what the reports say."""
    environment = Environment(
        loader=PackageLoader("eventbus_conformance"),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "called": called,
        "digest": lambda text: re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1…", text),
        "day": _day,
        "line": _line,
        "mark": lambda outcome: _MARKS.get(outcome, "·"),
        "marked": _marked,
        "number": lambda value: f"{value:,}".replace(",", "\N{NO-BREAK SPACE}") if isinstance(value, int) else value,
        "outcome": lambda outcome: outcome or "not run",
        "seconds": _seconds,
        "titled": lambda name: re.sub(r"_(seconds|bytes)$", "", name).replace("_", " "),
        "tone": lambda outcome: _TONES.get(outcome, ""),
        "longest": _longest,
        "value": _value,
    }
    text = environment.get_template(template).render(
        reports=reports,
        clauses=_clauses(reports),
        levels=LEVELS,
        capabilities=list(dict.fromkeys(name for each in reports for name in each.capabilities)),
        counts={name: said for name, said in COUNTS.items() if any(name in each.counts for each in reports)},
        worst=sorted({name for each in reports for name in each.worst}, key=_longest),
        parts=list(dict.fromkeys(name for each in reports for name in each.versions)),
        outcomes=list(reversed(WORST_FIRST)),
        meanings=MEANINGS,
        needs=NEEDS,
        nothing=NONE,
        met=met,
    )
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def called(report: Report) -> str:
    """What a column is called."""
    return report.profile if report.profile.startswith(report.backend) else f"{report.backend}, {report.profile}"


def _clauses(reports: Sequence[Report]) -> list[ClauseText]:
    """All clauses that any run was of, as the contract orders them within their levels."""
    found: dict[str, ClauseText] = {}
    for report in sorted(reports, key=lambda each: -len(each.clauses)):
        found = {**found, **{name: each for name, each in report.clauses.items() if name not in found}}
    return list(found.values())


def _value(value: object, capability: str) -> str:
    """A capability for people; its name tells the unit."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and capability.endswith("seconds"):
        return _seconds(value)
    if isinstance(value, int) and capability.endswith("bytes"):
        return f"{value / (1 << 20):.4g} MiB" if value >= 1 << 20 else f"{value / (1 << 10):.4g} KiB"
    return str(value)


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g} s"


def _longest(name: str) -> str:
    """What a time is called that was measured: two kinds of takeover are told apart."""
    return "takeover under load" if name == TAKEOVERS[1] else name


def _day(moment: str) -> str:
    return datetime.fromisoformat(moment).date().isoformat()


def _line(text: str) -> str:
    """A text that stays in its cell of a Markdown table, and is no markup."""
    return re.sub(r"([\\|<>*_\[\]])", r"\\\1", " ".join(text.split()))


def _marked(text: str) -> Markup:
    """A text for HTML in which addresses are links, and what stands between backticks is code."""
    link = Markup('<a href="{0}" rel="noopener">{0}</a>')
    parts = re.split(r"(https?://[^\s()<>\"]+|`[^`]+`)", text)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = Markup("<code>{}</code>").format(part[1:-1]) if part[0] == "`" else link.format(part)
    return Markup("").join(parts)
