"""Glob matching for names that no file system lists: objects in a bucket, files yet to exist."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob pattern, both as parts.

    The rules are those of `glob`: `**` matches any number of folders, also none, and at the end of
    a pattern everything below them; a name that begins with a dot matches only a part that does.
    Cost: O(parts x pattern), whatever the number of `**`.
    """
    if pattern and pattern[-1] == "**":
        pattern = [*pattern, "*"]

    def skip_stars(reached: set[int]) -> set[int]:
        for at, part_pattern in enumerate(pattern):
            if at in reached and part_pattern == "**":
                reached.add(at + 1)
        return reached

    reached = skip_stars({0})
    for part in parts:
        after = set()
        for at in reached - {len(pattern)}:
            is_hidden = part[:1] == "." and pattern[at][:1] != "."
            if not is_hidden and pattern[at] == "**":
                after.add(at)
            elif not is_hidden and fnmatchcase(part, pattern[at]):
                after.add(at + 1)
        reached = skip_stars(after)
    return len(pattern) in reached
