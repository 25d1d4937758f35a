"""The formats of input files: one row for each.

A format is its suffixes, the name that messages give it, and whether a file says which types its
columns have. `pipeline.source.readers` has the function that reads it. All other code reads the
fact that it needs here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["jsonl", "json", "csv", "tsv", "text", "parquet"]

PACKINGS = (".gz", ".zst")
"""Compressions that are unpacked while a file is read."""


class Format(NamedTuple):
    """The facts about a format."""

    kind: Kind
    name: str
    suffixes: tuple[str, ...]
    family: str
    """Files of one family can be read as one input."""
    is_packed: bool = True
    """Its files are also read with a suffix of `PACKINGS`."""
    declares_types: bool = False
    """A file says which types its columns have; else they are learnt from the rows."""
    describes: bool = False
    """In a folder, beside files of rows, such a file is taken as their description."""
    id: str | None = None
    """The column that identifies a row, unless the job names another one."""

    @property
    def endings(self) -> tuple[str, ...]:
        """All ends of names of this format."""
        packings = ("", *PACKINGS) if self.is_packed else ("",)
        return tuple(suffix + packing for suffix in self.suffixes for packing in packings)


FORMATS = (
    Format("jsonl", "JSON Lines", (".jsonl", ".ndjson", ".jsonlines"), "JSON"),
    Format("json", "JSON", (".json",), "JSON", describes=True),
    Format("csv", "CSV", (".csv",), "CSV"),
    Format("tsv", "TSV", (".tsv",), "CSV"),
    Format("parquet", "Parquet", (".parquet",), "Parquet", is_packed=False, declares_types=True),
    Format("text", "text", (".txt", ".md"), "text", is_packed=False, id="path"),
)

SUFFIXES = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
"""The suffixes of all formats, for messages."""
PACKABLE = ", ".join(each.name for each in FORMATS if each.is_packed)


def format_of(path: str) -> Format | None:
    """The format of a file, by its name alone; None for any other name."""
    name = path.lower()
    return next((each for each in FORMATS if name.endswith(each.endings)), None)


def is_documentation(name: str) -> bool:
    """Whether a name says that the file describes others: a text in capitals, like README.md."""
    found = format_of(name)
    return found is not None and found.kind == "text" and name.partition(".")[0].isupper()
