"""The report of a run as one HTML page: a pure function from a `Report` to a string.

The page stands alone, like that of `jobs.display.chunks_page`, whose style it shares: no script, no
font, no address is loaded, and its own content policy forbids it. It holds what `textmill report`
prints and one picture: when the calls were made, and when they failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from msgspec import Struct

from jobs.format import duration
from jobs.history.register import Run, moment
from jobs.history.report import Report, facts, head, records, report_of, sections
from pipeline.disk.durable import replaced
from pipeline.text import many


def write_page(run: Run) -> None:
    """Writes `report.html` into the folder of a run that ended. Raises: OSError."""
    began = moment(run.started_at)
    beats = [
        CallBucket(
            (moment(str(told.get("at"))) - began).total_seconds(),
            _count(told, "calls"),
            _count(told, "errors"),
        )
        for told in records(Path(run.folder), "events.jsonl")
        if told.get("event") == "calls"
    ]
    with replaced(Path(run.folder, "report.html"), is_private=True) as file:
        file.write(page(report_of(run), beats).encode())


def _count(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) else 0


BARS = 120

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
figure {{ max-width: none; }} svg {{ height: 5rem; }} rect.bad {{ fill: var(--warn); }}
.share {{ display: flex; height: .6rem; margin: .5rem 0 1rem; background: var(--line); }}
.share span {{ background: var(--a-mark); }} .share .bad {{ background: var(--warn); }}
.share .some {{ background: var(--b-mark); }} ul {{ overflow-wrap: anywhere; }}
</style></head><body>"""


class CallBucket(Struct, frozen=True):
    """Calls that ended in a window of time. Units: seconds from the start to the window's end."""

    seconds: float
    calls: int
    errors: int


def page(told: Report, beats: Iterable[CallBucket]) -> str:
    """The page as one string. Invariant: nothing from outside becomes markup or a control."""
    title = head(told)
    style = (resources.files("jobs.display") / "page.css").read_text("utf-8")
    parts = [
        _HEAD.format(title=escape(title), style=style),
        f'<header><h1><bdi dir="auto">{escape(title)}</bdi></h1>',
        _listed(facts(told)),
        _status_bar(told),
        "</header>",
        calls_chart(list(beats), _length(told)),
    ]
    for name, lines in sections(told):
        parts += [f"<section><h2>{escape(name)}</h2>", _listed(lines), "</section>"]
    return "\n".join(part for part in [*parts, "</body></html>\n"] if part)


def calls_chart(beats: Sequence[CallBucket], seconds: float) -> str:
    """Bars of calls over the time of the run, those that brought errors below; empty without any.

    Invariant: the bars' figures add up to those of the beats.
    """
    if not any(beat.calls or beat.errors for beat in beats):
        return ""
    seconds = max(seconds, *(beat.seconds for beat in beats), 1.0)
    count = max(1, min(BARS, round(seconds)))
    well, badly = [0] * count, [0] * count
    for beat in beats:
        at = min(count - 1, max(0, int(beat.seconds * count / seconds)))
        badly[at] += beat.errors
        well[at] += max(0, beat.calls - beat.errors)
    most = max(one + other for one, other in zip(well, badly, strict=True))
    bars = []
    for at, (one, other) in enumerate(zip(well, badly, strict=True)):
        top, low = _height(one, most), _height(other, most)
        after = duration(seconds * at / count)
        said = f"after {after}: {many(one, 'call')}, {many(other, 'error')}"
        for kind, y, height in (("", 80 - low - top, top), ("bad", 80 - low, low)):
            if height:
                bars.append(
                    f'<rect class="{kind}" x="{at * 10}" y="{max(0, y)}" width="9" '
                    f'height="{height}"><title>{said}</title></rect>'
                )
    told = (
        f"{many(sum(well), 'call')} with answers, {many(sum(badly), 'error')}, "
        f"over {duration(seconds)}"
    )
    return (
        f'<figure><svg role="img" aria-label="{told}" viewBox="0 0 {count * 10} 80" '
        f'preserveAspectRatio="none">{"".join(bars)}</svg>'
        f'<p class="axis"><span>start</span><span>{duration(seconds)}</span></p>'
        f"<figcaption>{told}</figcaption></figure>"
    )


def _height(number: int, most: int) -> int:
    return max(2, round(78 * number / most)) if number else 0


def _status_bar(told: Report) -> str:
    run = told.run
    if not run.documents:
        return ""
    spans = "".join(
        f'<span class="{kind}" style="width:{100 * number / run.documents:.2f}%"></span>'
        for kind, number in (("", run.ok), ("some", run.partial), ("bad", run.failed))
        if number
    )
    return f'<div class="share" aria-hidden="true">{spans}</div>'


def _listed(lines: Iterable[tuple[int, str]]) -> str:
    """Lines with their depth as nested lists."""
    parts, depth = [], 0
    for level, line in lines:
        parts += ["<ul>"] * (level - depth) + ["</ul>"] * (depth - level)
        depth = level
        parts.append(f"<li>{escape(line)}</li>")
    return "".join(parts + ["</ul>"] * depth)


def _length(told: Report) -> float:
    run = told.run
    return run.seconds or (moment(run.ended_at) - moment(run.started_at)).total_seconds()
