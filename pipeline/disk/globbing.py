"""Glob patterns, for names that no file system lists: of objects in a bucket, of files to come."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches(parts: Sequence[str], pattern: Sequence[str], *, or_folder: bool = False) -> bool:
    """Whether a path fits a glob pattern, both given in parts; with `or_folder` also where a folder
    around it does.

    As `glob` reads a pattern: `**` stands for any number of folders, also none, and at its end for
    everything below them; a name that begins with a dot fits only a part that does.
    Cost: O(parts x pattern), whatever the number of `**`.
    """
    if pattern and pattern[-1] == "**":
        pattern = [*pattern, "*"]

    def closed(reached: set[int]) -> set[int]:
        for at, each in enumerate(pattern):
            if at in reached and each == "**":
                reached.add(at + 1)
        return reached

    reached = closed({0})
    for part in parts:
        if or_folder and len(pattern) in reached:
            return True
        after = set()
        for at in reached - {len(pattern)}:
            is_hidden = part[:1] == "." and pattern[at][:1] != "."
            if not is_hidden and pattern[at] == "**":
                after.add(at)
            elif not is_hidden and fnmatchcase(part, pattern[at]):
                after.add(at + 1)
        reached = closed(after)
    return len(pattern) in reached
