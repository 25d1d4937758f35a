"""The report of a run as one HTML page: a pure function from a `Report` to a string.

The page is self-contained, like that of `jobs.display.chunks_page`, whose style it shares: it loads
no script, font or address, and its content policy forbids that. It holds the output of
`textmill report` and one chart: calls and errors over time.
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
from jobs.history.report import Report, facts, headline, records, report_of, sections
from pipeline.disk.durable import replaced
from pipeline.text import many


def write_page(run: Run) -> None:
    """Writes `report.html` into the folder of an ended run. Raises: OSError."""
    started = moment(run.started_at)
    buckets = [
        CallBucket(
            (moment(str(event.get("at"))) - started).total_seconds(),
            _count(event, "calls"),
            _count(event, "errors"),
        )
        for event in records(Path(run.folder), "events.jsonl")
        if event.get("event") == "calls"
    ]
    with replaced(Path(run.folder, "report.html"), is_private=True) as file:
        file.write(page(report_of(run), buckets).encode())


def _count(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
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
    """The calls that ended in a time window. Units: seconds from the start to the window's end."""

    seconds: float
    calls: int
    errors: int


def page(report: Report, buckets: Iterable[CallBucket]) -> str:
    """The page as one string. Invariant: no text from outside becomes markup or a control."""
    title = headline(report)
    style = (resources.files("jobs.display") / "page.css").read_text("utf-8")
    parts = [
        _HEAD.format(title=escape(title), style=style),
        f'<header><h1><bdi dir="auto">{escape(title)}</bdi></h1>',
        _nested_list(facts(report)),
        _status_bar(report),
        "</header>",
        calls_chart(list(buckets), _seconds(report)),
    ]
    for name, lines in sections(report):
        parts += [f"<section><h2>{escape(name)}</h2>", _nested_list(lines), "</section>"]
    return "\n".join(part for part in [*parts, "</body></html>\n"] if part)


def calls_chart(buckets: Sequence[CallBucket], seconds: float) -> str:
    """Bars of calls over time, with calls that failed below; empty without calls.

    Invariant: the numbers of the bars add up to those of the buckets.
    """
    if not any(bucket.calls or bucket.errors for bucket in buckets):
        return ""
    seconds = max(seconds, *(bucket.seconds for bucket in buckets), 1.0)
    count = max(1, min(BARS, round(seconds)))
    answered, failed = [0] * count, [0] * count
    for bucket in buckets:
        at = min(count - 1, max(0, int(bucket.seconds * count / seconds)))
        failed[at] += bucket.errors
        answered[at] += max(0, bucket.calls - bucket.errors)
    max_calls = max(map(sum, zip(answered, failed, strict=True)))
    bars = []
    for at, (n_answered, n_failed) in enumerate(zip(answered, failed, strict=True)):
        top, low = _height(n_answered, max_calls), _height(n_failed, max_calls)
        after = duration(seconds * at / count)
        label = f"after {after}: {many(n_answered, 'call')}, {many(n_failed, 'error')}"
        for kind, y, height in (("", 80 - low - top, top), ("bad", 80 - low, low)):
            if height:
                bars.append(
                    f'<rect class="{kind}" x="{at * 10}" y="{max(0, y)}" width="9" '
                    f'height="{height}"><title>{label}</title></rect>'
                )
    caption = (
        f"{many(sum(answered), 'call')} with answers, {many(sum(failed), 'error')}, "
        f"over {duration(seconds)}"
    )
    return (
        f'<figure><svg role="img" aria-label="{caption}" viewBox="0 0 {count * 10} 80" '
        f'preserveAspectRatio="none">{"".join(bars)}</svg>'
        f'<p class="axis"><span>start</span><span>{duration(seconds)}</span></p>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _height(number: int, max_number: int) -> int:
    return max(2, round(78 * number / max_number)) if number else 0


def _status_bar(report: Report) -> str:
    run = report.run
    if not run.documents:
        return ""
    spans = "".join(
        f'<span class="{kind}" style="width:{100 * number / run.documents:.2f}%"></span>'
        for kind, number in (("", run.ok), ("some", run.partial), ("bad", run.failed))
        if number
    )
    return f'<div class="share" aria-hidden="true">{spans}</div>'


def _nested_list(lines: Iterable[tuple[int, str]]) -> str:
    """The lines with their depths as nested lists."""
    parts, depth = [], 0
    for level, line in lines:
        parts += ["<ul>"] * (level - depth) + ["</ul>"] * (depth - level)
        depth = level
        parts.append(f"<li>{escape(line)}</li>")
    return "".join(parts + ["</ul>"] * depth)


def _seconds(report: Report) -> float:
    run = report.run
    return run.seconds or (moment(run.ended_at) - moment(run.started_at)).total_seconds()
