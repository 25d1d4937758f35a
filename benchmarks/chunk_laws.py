"""Which laws of cutting does each chunker break, and how often? The goal is a table of zeros.

    python benchmarks/chunk_laws.py [FOLDER] [--python PEERS_PYTHON] [--json]

Every judge here is independent of textmill's own scan: Unicode's grapheme clusters and words by the
package `regex`, sentence ends by a plain rule, sizes by encoding the chunk alone. A cut counts as
wrong only where there was room: where the chunk holds a better place to end.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from chunk_peers import CUTTERS, SIZE, Cutter, Span, arguments, encoding, run_all, show

COLUMNS = {
    "mismatch": "text[start:end] is not the chunk",
    "lost": "characters, other than blanks, in no chunk",
    "over": "chunks over the size when encoded alone",
    "overlap over": "overlaps of more tokens than requested",
    "overlap empty": "no overlap, with room for one",
    "word": "cuts inside a word",
    "grapheme": "cuts inside a grapheme cluster",
    "zh sentence": "Chinese cuts in mid-sentence",
    "en sentence": "cuts in mid-sentence in hard-wrapped English",
}
MAX_CHARS = 150_000
"""Some texts repeat themselves within this number of characters: the adversarial ones, and the
wrapped one every 47,728 characters. `_located` reads the place of a piece that occurs several times
in favour of the chunker."""

_CJK = "\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff"
_ZH_END = re.compile(r"[。！？；…｡][”’」』）】》\"')\]]*\s*|\n\s*")
_EN_END = re.compile(r"[.!?…][”’\"')\]]*\s+|\n[ \t]*\n\s*")


def measure(cut: Cutter, text: str, which: str, overlap: int) -> dict[str, Any]:
    """How often each law is broken."""
    text = text[:MAX_CHARS]
    count = encoding().encode_ordinary
    spans, mismatches = _located(text, cut(text, SIZE, overlap))
    broken = dict.fromkeys(COLUMNS, 0)
    broken["mismatch"] = mismatches
    covered = 0
    for start, end, _ in spans:
        broken["lost"] += _visible(text[covered:start]) if start > covered else 0
        covered = max(covered, end)
    broken["lost"] += _visible(text[covered:])
    broken["over"] = sum(len(count(piece)) > SIZE for _, _, piece in spans)
    for one, two in pairwise(spans):
        shared = text[two[0] : one[1]] if two[0] < one[1] else ""
        broken["overlap over"] += len(count(shared)) > overlap
        if overlap and not shared.strip():
            # Not counted where the same text may have been meant one period before.
            broken["overlap empty"] += text.find(two[2], one[0], two[1] - 1) < 0
    ends = [(start, end) for start, end, _ in spans[:-1]]
    clusters = _cluster_starts(text)
    for start, end in ends:
        room = end - start > 1
        broken["word"] += room and _in_word(text, end) and bool(re.search(r"\S\s", text[start:end]))
        broken["grapheme"] += end < len(text) and end not in clusters
        if which == "chinese":
            broken["zh sentence"] += _mid_sentence(_ZH_END, text, start, end)
        if which == "wrapped":
            broken["en sentence"] += _mid_sentence(_EN_END, text, start, end)
    return broken | {"chunks": len(spans)}


def _located(text: str, spans: list[Span]) -> tuple[list[Span], int]:
    """The spans at their most favourable positions, and the number of wrong reported positions.

    A piece may occur often (`abab…`): it is taken where it continues, else where it overlaps by
    least, else after a gap. A reported position counts as wrong if the text there differs, or if
    it makes a gap that is none.
    """
    located: list[Span] = []
    wrong = start = end = 0
    for reported, _, piece in spans:
        at = text.find(piece, end)
        if at < 0 or text[end:at].strip():
            inside = text.rfind(piece, start, end + len(piece) - 1)
            at = inside if inside >= 0 else at
        is_right = reported >= start and text.startswith(piece, reported)
        if is_right and (at < 0 or not text[end : max(end, reported)].strip()):
            at = reported
        elif (reported >= 0 and reported != at) or piece not in text:
            wrong += 1
        if at < 0:
            continue
        located.append((at, at + len(piece), piece))
        start, end = at, max(end, at + len(piece))
    return located, wrong


def _visible(text: str) -> int:
    return len("".join(text.split()))


def _in_word(text: str, at: int) -> bool:
    if not 0 < at < len(text):
        return False
    return bool(re.match(rf"[^\W_{_CJK}][^\W_{_CJK}]", text[at - 1 : at + 1]))


def _cluster_starts(text: str) -> set[int]:
    import regex

    return {match.start() for match in regex.finditer(r"\X", text)}


def _mid_sentence(ends: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether the chunk ends inside a sentence although another sentence ended in it."""
    if end >= len(text):
        return False
    stop = end
    while stop < len(text) and text[stop].isspace():
        stop += 1
    places = [match.end() for match in ends.finditer(text, start, stop + 1)]
    return bool(places) and places[-1] < stop and places[0] < end


def main() -> None:
    """Count, then print the table or the records."""
    options = arguments(__doc__ or "")
    results = run_all(options, __file__, measure)
    if options.json:
        print(json.dumps(results))
        return
    rows = []
    for name in CUTTERS:
        mine = [row for row in results if row["chunker"] == name]
        if not mine:
            continue
        done = [row for row in mine if "error" not in row]
        sums = [str(sum(row[column] for row in done)) for column in COLUMNS]
        failed = str(len(mine) - len(done))
        total = str(sum(row["chunks"] for row in done))
        rows.append([f"{name} {mine[0]['version']}", *sums, failed, total])
    show(["broken", *COLUMNS, "no result", "chunks"], rows)


if __name__ == "__main__":
    main()
