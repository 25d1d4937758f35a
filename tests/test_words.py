"""The words of docs/words.toml: no private word in code, docs, help or messages."""

import re
import tomllib

import pytest

from tests.support import ROOT

BANNED = tomllib.loads((ROOT / "docs" / "words.toml").read_text("utf-8"))["banned"]
WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(BANNED)})(?![a-z])", re.IGNORECASE)
"""Also inside a name: `_told`, `told_of`; not inside another word: `milliseconds`, `planes`."""
ALLOWED = re.compile(r"textmill|in[ _-]?flight", re.IGNORECASE)
FILES = [
    path
    for folder in ("pipeline", "chunkers", "aggregators", "jobs", "docs")
    for suffix in ("py", "md", "toml")
    for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
    if path.name != "words.toml"
] + sorted(ROOT.glob("*.md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_words(path):
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if WORD.search(ALLOWED.sub("", line))
    ]
    assert not found, found


def test_a_private_word_is_found():
    assert WORD.search("def _told(run):") and WORD.search("Whoever asks") and WORD.search("a lane")
    assert not WORD.search("milliseconds in planes") and not WORD.search("mending")
    assert not WORD.search(ALLOWED.sub("", "calls in flight"))
