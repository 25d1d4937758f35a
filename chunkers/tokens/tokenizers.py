"""Tokenizers that report the end of every token, so that a chunk's size is a subtraction.

Chunkers need one encode pass over a document and no further call per chunk. Two facts make this
possible: an encoding is the concatenation of those of segments cut at *seams* (places that no token
and no pre-token crosses), and a table holds each token's length in code points.
"""

from __future__ import annotations

import hashlib
import re
from binascii import a2b_base64
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.text import did_you_mean

if TYPE_CHECKING:
    import tiktoken

Ends = NDArray[np.int64]

SEGMENT_CHARS = 1 << 18
"""Long enough to hide the cost of a call. It also bounds a run without any seam, for which the
encoder takes more than linear time."""

RANKS = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
"""SHA-256 of the rank tables in `chunkers/ranks/`."""

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

# Source: the encodings' published definitions (tiktoken 0.14, November 2026).
PATTERNS = {
    "o200k_base": "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_TAIL}",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_TAIL}",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "cl100k_base": "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        )
    ),
}

LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481"
    "\u05d0-\u05ea\u0621-\u063f\u0641-\u064a\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
)
# Every pre-token pattern of tiktoken ends a match at these places, in any context:
# before one blank and a letter, before a letter after one newline, before a stop after a letter.
SEAM = re.compile(
    rf"(?<=\S)(?= [{LETTER}])|(?<=\S\n)(?=[{LETTER}])|(?<=[{LETTER}])(?=[,.;:!?)，。！？；：、）])"
)
_SEAM_MARK = re.compile("[ \n,.;:!?)，。！？；：、）]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """Counts tokens and reports the end of each."""

    @property
    def name(self) -> str:
        """The name as the user typed it."""

    @property
    def additive(self) -> bool:
        """Whether a text between two clean cuts has exactly the same tokens alone as in place."""

    def count(self, text: str) -> int:
        """The number of tokens of a text by itself."""

    def encode_ends(self, text: str) -> Ends:
        """The end of each token, ascending.

        Units: code points; a token that ends inside a code point has the end of the next token
            that does not.
        Cost: one encode pass.
        """


def segments(text: str, chars: int = SEGMENT_CHARS) -> Iterator[tuple[int, int]]:
    """Spans that cover the text, each at most `chars` long and cut at a seam where there is one.

    Invariant: encoding the segments one by one gives the tokens of the whole text, except at cuts
        inside a run of more than an eighth of `chars` without any seam.
    """
    start = 0
    while len(text) - start > chars:
        end = start + chars
        cut = end
        for reach in (chars >> 8, chars >> 3):
            seam = _last_seam(text, end - reach, end)
            if seam:
                cut = seam
                break
        yield start, cut
        start = cut
    if start < len(text):
        yield start, len(text)


def _last_seam(text: str, low: int, end: int) -> int:
    """The last seam in [low, end), or 0; tries `SEAM` only at its own characters."""
    for match in reversed([*_SEAM_MARK.finditer(text, low - 1, end)]):
        place = match.end() if match[0] == "\n" else match.start()
        if place >= low and SEAM.match(text, place, end):
            return place
    return 0


def merge_segments(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans of `segments`, merged in pairs where two meet at a seam; the tokens are the same.

    Cost: a scan costs half a millisecond for each span besides its length (measured on code: 1.51
        encode passes with 1 << 17 code points, 1.38 with 1 << 18, 1.31 with 1 << 19, no fewer
        above).
    """
    for start, end in spans:
        if SEAM.match(text, end):
            end = next(spans, (end, end))[1]
        yield start, end


class RankTokenizer:
    """A byte-pair encoding run by tiktoken; special tokens are ordinary text."""

    def __init__(self, name: str, encoding: tiktoken.Encoding, *, additive: bool) -> None:
        self.name = name
        self.additive = additive
        self._encoding = encoding
        self._table: NDArray[np.uint16] | None = None

    def count(self, text: str) -> int:
        """The number of tokens of a text by itself."""
        if len(text) <= SEGMENT_CHARS:
            return len(self._encode(text))
        return sum(len(self._encode(text[start:end])) for start, end in segments(text))

    def encode_ends(self, text: str) -> Ends:
        """The end of each token, ascending; see `Tokenizer`."""
        codes = self._codes.take(self._encode(text), mode="clip")
        if text.isascii():
            return np.cumsum(codes, dtype=np.int64)
        inside = codes >= _INSIDE
        codes &= ~_INSIDE
        ends = np.cumsum(codes, dtype=np.int64)
        # A token whose successor begins inside a code point ends where the next whole one does.
        broken = np.flatnonzero(inside[1:])
        if len(broken):
            last = np.append(np.diff(broken) != 1, True)
            run = np.cumsum(last) - last
            ends[broken] = ends[broken[last] + 1][run]
        return ends

    def _encode(self, text: str) -> NDArray[np.uint32]:
        # Without a list of Python integers this is faster than `encode_ordinary`.
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            # A lone surrogate has no UTF-8; one replacement for one keeps every offset.
            text = _SURROGATES.sub("\ufffd", text)
            return self._encoding.encode_to_numpy(text, disallowed_special=())

    @property
    def _codes(self) -> NDArray[np.uint16]:
        """For each token: the code points that begin in it, + `_INSIDE` if it begins inside one."""
        if self._table is None:
            ranks = self._encoding._mergeable_ranks
            lengths = np.fromiter(map(len, ranks), np.int64, len(ranks))
            offsets = np.cumsum(lengths) - lengths
            merge_segments = np.frombuffer(b"".join(ranks), np.uint8)
            leads = (merge_segments & 0xC0) != 0x80
            codes = np.add.reduceat(leads, offsets, dtype=np.int64)
            codes += np.where(leads[offsets], 0, _INSIDE)
            table = np.zeros(max(ranks.values()) + 1, np.uint16)
            table[np.fromiter(ranks.values(), np.int64, len(ranks))] = codes
            self._table = table
            if self.name in RANKS:
                self._encoding._mergeable_ranks = {}  # used by nothing else, and 35 MB
        return self._table


_INSIDE = np.uint16(1 << 15)


FILE_SEGMENT_CHARS = 1 << 12


class FileTokenizer:
    """A `tokenizer.json`, run by the package `tokenizers`; no special tokens are added.

    A text longer than `FILE_SEGMENT_CHARS` is encoded in segments, each as a text of its own. A cut
    between them may change the count by a token, so the tokenizer is not additive.
    """

    additive = False

    def __init__(self, name: str, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise UsageError(
                f"tokenizer `{name}` needs the package `tokenizers`",
                hint="pip install tokenizers",
            ) from None
        self.name = name
        try:
            self._model: Any = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the package raises bare Exception
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"tokenizer `{name}` cannot be read: {reason}") from None
        self._model.no_truncation()
        self._model.no_padding()

    def count(self, text: str) -> int:
        """The number of tokens of a text by itself."""
        if len(text) <= SEGMENT_CHARS:
            return len(self._encode(text))
        return len(self.encode_ends(text))

    def encode_ends(self, text: str) -> Ends:
        """The end of each token, ascending; see `Tokenizer`."""
        parts: list[Ends] = []
        # Without a pre-tokenizer the merge loop is superlinear: short segments keep it flat.
        for start, end in segments(text, FILE_SEGMENT_CHARS):
            offsets = self._encode(text[start:end]).offsets
            ends = np.fromiter((stop for _, stop in offsets), np.int64, len(offsets))
            if len(ends):
                # Tokens of one code point (byte fallback) share its end, so ends never fall;
                # characters that a normaliser drops at the end of a segment count for its last
                # token.
                ends = np.maximum.accumulate(ends)
                ends[ends == ends[-1]] = end - start
                parts.append(ends + start)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _encode(self, text: str) -> Any:
        try:
            return self._model.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            return self._model.encode(_SURROGATES.sub("\ufffd", text), add_special_tokens=False)


@lru_cache(maxsize=8)
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of this name: an encoding of tiktoken, `wordllama`, or a `tokenizer.json`.

    Raises: UsageError if the name is unknown, or something that it needs is missing.
    Cost: half a second for the first use of an encoding, then nothing.
    """
    if name in RANKS:
        return RankTokenizer(name, _from_package(name), additive=True)
    if (path := _file(name)) is not None:
        return FileTokenizer(name, path)
    return _from_tiktoken(name)


def check_tokenizer(name: str) -> None:
    """Nothing, if there is a tokenizer of this name; it is not loaded.

    Raises: UsageError as `tokenizer`, but for what only loading shows: a damaged file, a download
    that fails.
    """
    if name not in RANKS and _file(name) is None:
        _check_encoding(name)


def _file(name: str) -> Path | None:
    """The `tokenizer.json` that this name stands for; None: it is the name of an encoding."""
    if name == "wordllama":
        return _wordllama_file()
    if not name.endswith(".json"):
        return None
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(f"tokenizer `{name}` does not exist")
    return path


def _from_package(name: str) -> tiktoken.Encoding:
    import tiktoken

    table = resources.files("chunkers").joinpath("ranks", f"{name}.tiktoken").read_bytes()
    digest = hashlib.sha256(table).hexdigest()
    if digest != RANKS[name]:
        raise UsageError(
            f"chunkers/ranks/{name}.tiktoken: SHA-256 is {digest[:12]}…, "
            f"must be {RANKS[name][:12]}…",
            hint="install textmill again",
        )
    fields = table.split()
    ranks = dict(zip(map(a2b_base64, fields[::2]), map(int, fields[1::2]), strict=True))
    # Built directly: tiktoken's registry would download these two.
    # One special token, which is never used: without any, tiktoken searches for the empty string.
    special = {"<|endoftext|>": max(ranks.values()) + 1}
    return tiktoken.Encoding(
        name, pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens=special
    )


def _check_encoding(name: str) -> None:
    """Raises: UsageError with the nearest name where tiktoken has no encoding of this one."""
    import tiktoken

    names = tiktoken.list_encoding_names()
    if name not in names:
        choices = sorted({*names, *RANKS, "wordllama"})
        raise UsageError(
            f"unknown tokenizer `{name}`{did_you_mean(name, choices)}",
            hint=f"one of {', '.join(choices)}, or a path to a tokenizer.json",
        )


def _from_tiktoken(name: str) -> Tokenizer:
    import tiktoken

    _check_encoding(name)
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # whatever the download raises
        raise UsageError(
            f"tokenizer `{name}` must be downloaded by tiktoken, and that failed: "
            f"{type(error).__name__}",
            hint="set TIKTOKEN_CACHE_DIR to a folder that holds it, or use o200k_base",
        ) from None
    return RankTokenizer(name, encoding, additive=False)


def _wordllama_file() -> Path:
    # Located without an import, which would load its compiled parts.
    spec = util.find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "tokenizer `wordllama` needs the extra `local`",
            hint="pip install textmill[local]",
        )
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("tokenizers/*.json"))
    preferred = [path for path in files if path.name == "l2_supercat_tokenizer_config.json"]
    if not files:
        raise UsageError(
            f"tokenizer `wordllama`: no tokenizer in {folder}",
            hint="pip install --force-reinstall wordllama",
        )
    return (preferred or files)[0]
