"""Export and import: every answer survives, and a hostile file does no harm."""

import hashlib
import io
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.entry import encode_entry
from pipeline.cache.portable import LARGEST_BLOCK_BYTES, check, export, import_answers
from pipeline.cache.store import AnswerCache
from pipeline.errors import InputError
from pipeline.records import Answer, Split

PREFIX = b'[1,"feature-extraction",["local","m"],{}]'
ONES = b"\x00\x00\x80?" * 4


def key(number):
    return hashlib.sha256(b"%d" % number).digest()


@pytest.fixture
def caches(tmp_path):
    opened = [AnswerCache(tmp_path / name) for name in ("here", "there")]
    yield opened
    for cache in opened:
        cache.close()


def export_to(cache, path):
    with path.open("wb") as file:
        return export(cache, file)


def import_from(cache, path):
    warnings = []
    check(path)
    return import_answers(cache, path, warnings.append), warnings


ANSWERS = st.one_of(
    st.builds(Split),
    st.builds(
        Answer,
        st.one_of(
            st.text(min_size=1, max_size=50).filter(lambda text: text.strip()),
            st.lists(st.floats(1, 9, width=32), min_size=1, max_size=8).map(
                lambda numbers: struct.pack(f"<{len(numbers)}f", *numbers)
            ),
        ),
        st.integers(0, 10**6), st.integers(0, 10**6), st.booleans(), st.text(max_size=9),
    ),
)


@settings(max_examples=30)
@given(st.dictionaries(st.binary(min_size=32, max_size=32), ANSWERS, max_size=40))
def test_every_answer_travels(caches, tmp_path, answers):
    answers = {k: v for k, v in answers.items() if k[:7] not in (b"prefix ", b"server ")}
    here, there = caches
    for cache in caches:  # the same two files for all examples: to make them costs more
        cache._store.clear()
    here.put_many(list(answers.items()))
    here.remember_prefix(PREFIX)
    here.remember("http://user.example", b'{"model_id": "m"}')  # stays at home
    written = export_to(here, tmp_path / "file")
    assert (written.answers, written.damaged) == (len(answers), 0)
    found, warnings = import_from(there, tmp_path / "file")
    assert (found.answers, found.added, found.other, found.damaged) == (
        len(answers), len(answers), 0, 0
    )
    assert warnings == []
    assert there.get_many(answers) == answers
    assert there.prefixes() == [PREFIX]
    assert there.recall("http://user.example") is None
    again, _ = import_from(there, tmp_path / "file")
    assert (again.added, again.other) == (0, 0)


def test_the_time_of_storing_travels_and_none_is_in_the_future(caches, tmp_path):
    here, there = caches
    here.put_many([(key(1), Answer("a")), (key(2), Answer("b"))])
    here._store._sql("UPDATE Cache SET store_time = 1000.5 WHERE key = ?", (key(1),))
    here._store._sql("UPDATE Cache SET store_time = 1e12 WHERE key = ?", (key(2),))
    export_to(here, tmp_path / "file")
    import_from(there, tmp_path / "file")
    times = {entry.key: entry.stored for run in there.entries() for entry in run}
    assert times[key(1)] == 1000.5
    assert times[key(2)] <= time.time()


def test_an_answer_that_is_here_already_stays_and_is_counted(caches, tmp_path):
    here, there = caches
    here.put_many([(key(1), Answer("theirs")), (key(2), Answer("same"))])
    there.put_many([(key(1), Answer("ours")), (key(2), Answer("same"))])
    export_to(here, tmp_path / "file")
    found, _ = import_from(there, tmp_path / "file")
    assert (found.answers, found.added, found.other) == (2, 0, 1)
    assert there.get_many([key(1)]) == {key(1): Answer("ours")}


def test_an_answer_that_is_damaged_here_is_made_good(caches, tmp_path):
    here, there = caches
    for cache in caches:
        cache.put_many([(key(1), Answer("whole"))])
    there._store._sql("UPDATE Cache SET value = x'00' WHERE key = ?", (key(1),))
    export_to(here, tmp_path / "file")
    found, _ = import_from(there, tmp_path / "file")
    assert (found.added, found.other) == (1, 0)
    assert there.get_many([key(1)]) == {key(1): Answer("whole")}


def test_damaged_entries_are_left_out_of_an_export(caches, tmp_path):
    here, there = caches
    here.put_many([(key(n), Answer(f"{n}")) for n in range(3)])
    here._store._sql("UPDATE Cache SET value = x'00' WHERE key = ?", (key(1),))
    written = export_to(here, tmp_path / "file")
    assert (written.answers, written.damaged) == (2, 1)
    assert import_from(there, tmp_path / "file")[0].added == 2


def test_memory_of_an_export_is_one_block(caches, tmp_path):
    here, there = caches
    here.put_many([(key(n), Answer(hashlib.sha256(b"%d" % n).hexdigest() * 200)) for n in range(400)])

    class Counting(io.BytesIO):
        largest = 0

        def write(self, data):
            self.largest = max(self.largest, len(data))
            return super().write(data)

    file = Counting()
    export(here, file)
    assert len(file.getvalue()) > file.largest * 4
    (tmp_path / "file").write_bytes(file.getvalue())
    assert import_from(there, tmp_path / "file")[0].added == 400


# A hostile file


def block(entries, plain=None, *, packed=None, count=None, plain_bytes=None):
    plain = msgspec.msgpack.encode(entries) if plain is None else plain
    packed = pa.Codec("zstd").compress(plain, asbytes=True) if packed is None else packed
    head = struct.pack(
        "<IIII", len(entries) if count is None else count, len(packed),
        len(plain) if plain_bytes is None else plain_bytes, zlib.crc32(packed),
    )
    return head + struct.pack("<I", zlib.crc32(head)) + packed


def file_of(path: Path, *blocks, total, version=b"2"):
    packed = struct.pack("<Q", total)
    path.write_bytes(
        b"textmill answers " + version + b"\n" + b"".join(blocks)
        + block([], packed=packed, plain_bytes=0)
    )
    return path


GOOD = (key(1), 5.0, encode_entry(key(1), Answer(ONES)))


def bad_answers():
    def encoded(value, *rest):
        body = msgspec.msgpack.encode([value, *(rest or (0, 0, False, "", 0))])
        return zlib.crc32(body, zlib.crc32(key(2))).to_bytes(4, "little") + body

    yield "not finite", encoded(struct.pack("<f", float("nan")))
    yield "all zero", encoded(bytes(16))
    yield "not whole floats", encoded(b"12345")
    yield "empty vector", encoded(b"")
    yield "blank text", encoded(" \n")
    yield "a list", encoded([1, 2])
    yield "a number", encoded(7)
    yield "negative tokens", encoded("x", -1, 0, False, "", 0)
    yield "too many tokens", encoded("x", 1 << 60, 0, False, "", 0)
    yield "wrong shape", encoded("x", 0, 0, False)
    yield "of another key", encode_entry(key(1), Answer(ONES))
    yield "no checksum", b"\x00"
    yield "nothing", b""
    yield "a pickle", b"\x80\x04cos\nsystem\n."


@pytest.mark.parametrize(("name", "encoded"), [*bad_answers()], ids=lambda each: str(each)[:20])
def test_a_bad_entry_is_passed_over_and_its_neighbours_are_import_from(caches, tmp_path, name, encoded):
    _, there = caches
    path = file_of(tmp_path / "file", block([(key(2), 5.0, encoded), GOOD]), total=2)
    found, warnings = import_from(there, path)
    assert (found.answers, found.added, found.damaged) == (1, 1, 1), name
    assert warnings == [f"{path}: byte 19: entry {key(2).hex()[:12]} is damaged"]
    assert there.get_many([key(1), key(2)]) == {key(1): Answer(ONES)}


@pytest.mark.parametrize("name", [b"", b"short", b"server http://x.example", b"prefix " + b"0" * 32,
                                  b"server " + b"x" * 25, b"textmill", b"k" * 33])
def test_only_answers_and_prefixes_get_in(caches, tmp_path, name):
    _, there = caches
    path = file_of(tmp_path / "file", block([(name, 5.0, encode_entry(name, Answer(ONES)))]), total=1)
    found, _ = import_from(there, path)
    assert (found.answers, found.added, found.damaged) == (0, 0, 1)
    assert [e.key for run in there.entries() for e in run] == [b"textmill"]


@pytest.mark.parametrize("bad", [
    block([GOOD], b"\xdd\xff\xff\xff\xff"),  # a list of four billion
    block([GOOD], b"\x91" * 100_000),  # deeper than any stack
    block([GOOD], b"not MessagePack"),
    block([GOOD], msgspec.msgpack.encode([["text", 1.0, b""]])),
    block([GOOD], plain_bytes=5),
    block([GOOD], packed=b"no zstd", plain_bytes=100),
    block([GOOD], packed=pa.Codec("zstd").compress(bytes(50 << 20), asbytes=True), plain_bytes=9),
    block([GOOD], count=2),
    block([GOOD])[:-1] + b"\x00",
], ids=range(9))
def test_a_bad_block_is_passed_over_and_its_neighbours_are_import_from(caches, tmp_path, bad):
    _, there = caches
    count = struct.unpack_from("<I", bad)[0]
    other = block([(key(9), 5.0, encode_entry(key(9), Answer("x")))])
    found, warnings = import_from(there, file_of(tmp_path / "file", bad, other, total=count + 1))
    assert (found.added, found.damaged) == (1, count)
    noun = "entry" if count == 1 else "entries"
    assert warnings == [f"{tmp_path / 'file'}: byte 19: a damaged block of {count} {noun}"]


@pytest.mark.parametrize(("change", "why"), [
    (lambda whole: b"", "not a file of `textmill cache export`"),
    (lambda whole: b"PAR1" + whole, "not a file of `textmill cache export`"),
    (lambda whole: whole.replace(b"answers 2\n", b"answers 1\n"), "another version than 2"),
    (lambda whole: whole[:-1], "truncated after 1 entry, nothing was imported"),
    (lambda whole: whole[:25], "truncated after 0 entries, nothing was imported"),
    (lambda whole: whole[:60], "truncated after 0 entries, nothing was imported"),
    (lambda whole: whole[:-28], "truncated after 1 entry, nothing was imported"),
    (lambda whole: whole + b"more", "wrong end of the file, nothing was imported"),
    (lambda whole: whole[:19] + b"\xff" + whole[20:], "byte 19: damaged block head"),
    (lambda whole: whole[:19] + block([], packed=b"x", count=1, plain_bytes=1 << 31),
     "byte 19: a block of 2,147,483,648 bytes, over 67,108,864"),
])
def test_a_file_that_is_not_whole_is_refused_as_a_whole(caches, tmp_path, change, why):
    _, there = caches
    path = file_of(tmp_path / "file", block([GOOD]), total=1)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as refused:
        import_from(there, path)
    assert why in str(refused.value)
    assert there.get_many([key(1)]) == {}


def test_the_count_at_the_end_must_be_that_of_the_file(caches, tmp_path):
    _, there = caches
    with pytest.raises(InputError, match="wrong end of the file"):
        import_from(there, file_of(tmp_path / "file", block([GOOD]), total=2))


@settings(max_examples=50)
@given(st.integers(0, 400), st.integers(1, 255))
def test_no_flipped_byte_gives_a_wrong_answer(caches, tmp_path, at, flip):
    cache, path = caches[0], tmp_path / "file"
    cache._store.clear()
    answers = {key(n): Answer(f"answer {n}") for n in range(6)}
    file_of(path, block([(k, 5.0, encode_entry(k, a)) for k, a in answers.items()]), total=6)
    whole = bytearray(path.read_bytes())
    whole[at % len(whole)] ^= flip
    path.write_bytes(whole)
    with suppress(InputError):
        import_from(cache, path)
    for name, answer in cache.get_many(answers).items():
        assert answer == answers[name]


def test_the_bound_on_a_block_is_above_what_a_reply_may_hold():
    from pipeline.endpoints.http import ANSWER_BYTES_PER_REQUEST, BASE_ANSWER_BYTES

    assert LARGEST_BLOCK_BYTES > 2 * (BASE_ANSWER_BYTES + ANSWER_BYTES_PER_REQUEST)
