"""`chunks`, as a person meets it: in the terminal, as JSON lines, as a page."""

import io
import json
import re
import sys

import pytest
from rich.cells import cell_len

ROWS = [
    {"name": "weir", "text": "The weir at Oxmead held all winter, and the lock did not flood."},
    {"name": "渡船", "text": "渡船俱乐部在汛期停止营业，码头上的乘客改乘公共汽车前往对岸。"},
    {"name": "bread", "text": "Knead the dough for ten minutes and let the loaf rise overnight."},
]

SETTINGS = "method structure, size 256 tokens, overlap 32 tokens, tokenizer wordllama\n"


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def stdin(monkeypatch):
    def given(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return given


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


def test_chunks_of_a_text_file_are_its_spans(rows, textmill):
    text = "First line.\r\nSecond line.\r\n\r\n水闸没有损坏。" * 9
    (rows / "a.md").write_bytes(b"\xef\xbb\xbf" + text.encode())
    ran = textmill("chunks", "a.md", "--size", "16", "--overlap", "0", "--json")
    printed_chunks = objects(ran.out)
    assert (ran.code, {each["id"] for each in printed_chunks}) == (0, {"a.md"})
    assert "".join(each["text"] for each in printed_chunks) == text
    assert all(each["text"] == text[each["start_char"]:each["end_char"]] for each in printed_chunks)
    assert max(each["tokens"] for each in printed_chunks) <= 16


def test_chunks_for_people_say_span_tokens_overlap_and_both_ends(rows, textmill):
    (rows / "a.txt").write_text("one two three four five six seven eight nine ten")
    ran = textmill("chunks", "a.txt", "--method", "fixed", "--size", "8", "--overlap", "2",
                   "--tokenizer", "o200k_base")
    assert ran.out.splitlines() == [
        "a.txt  2 chunks, 12 tokens",
        "  chunk    span  tokens  shared",
        "      0   0..39       8       0  one two three four five six seven eight",
        "      1  27..48       4       2   seven eight nine ten",
    ]


def test_a_line_is_as_wide_as_the_terminal_and_no_escape_is_cut(rows, textmill, monkeypatch):
    (rows / "a.txt").write_text("渡船\x1b停\n" * 40 + "end")
    for columns in (50, 61, 62, 63, 64, 80, 121):
        monkeypatch.setenv("COLUMNS", str(columns))
        line = textmill("chunks", "a.txt", "--size", "2000").out.splitlines()[2]
        head, tail = line.split(" … ")
        assert columns - 10 < cell_len(line) <= columns
        assert re.fullmatch(r" +0 +0\.\.203 +\d+ +0  (渡船\\x1b停\\n)*(渡(船(\\x1b(停)?)?)?)?", head)
        assert re.fullmatch(r"(((船)?\\x1b)?停)?(\\n)?(渡船\\x1b停\\n)*end", tail)


def test_sections_are_reported_where_they_begin(rows, textmill):
    (rows / "a.md").write_text("# Guide\n\n" + "One word more. " * 9 + "\n\n## 安装\n\n" + "再读一遍。" * 9)
    out = textmill("chunks", "a.md", "--method", "markdown", "--size", "48", "--overlap", "0").out
    assert [line.strip() for line in out.splitlines() if line.startswith(" " * 9)] == [
        "Guide", "Guide > 安装",
    ]


def test_chunks_of_rows_by_id(rows, textmill):
    ran = textmill("chunks", "in.jsonl", "--id", "name", "--only", "渡船", "--json")
    assert [(each["id"], each["text"]) for each in objects(ran.out)] == [("渡船", ROWS[1]["text"])]
    ran = textmill("chunks", "in.jsonl", "--id", "name", "--only", "x\x1b")
    assert (ran.code, ran.out, ran.err) == (2, "", SETTINGS + "in.jsonl: no document `x\\x1b`\n")


def test_chunks_of_a_job(rows, textmill):
    (rows / "job.toml").write_text(
        'task = "feature-extraction"\n[input]\npath = "in.jsonl"\nid = "name"\n'
        '[chunk]\nsize = 8\nmethod = "fixed"\n[[endpoint]]\nkind = "local"\n'
    )
    printed_chunks = objects(textmill("chunks", "job.toml", "--json").out)
    assert [each["id"] for each in printed_chunks if each["start_char"] == 0] == ["weir", "渡船", "bread"]
    assert max(each["tokens"] for each in printed_chunks) == 8


def test_ids_and_texts_cannot_act_on_the_terminal(rows, textmill):
    hostile = {"name": "a\x1b[2J\u202e", "text": "b\x1b]0;x\x07 [red]c[/red]"}
    (rows / "h.jsonl").write_text(json.dumps(hostile))
    ran = textmill("chunks", "h.jsonl", "--id", "name")
    assert ran.out.splitlines()[0].startswith("a\\x1b[2J\\u202e  1 chunk, ")
    assert "b\\x1b]0;x\\x07 [red]c[/red]" in ran.out


@pytest.mark.parametrize("command", [
    ["chunks", "-i", "-"], ["chunks", "-"], ["chunks", "embed", "-i", "-"],
])
def test_rows_on_standard_input(rows, textmill, stdin, command):
    stdin((rows / "in.jsonl").read_bytes())
    ran = textmill(*command, "--id", "name", "--json")
    assert [(each["id"], each["text"]) for each in objects(ran.out)] == [
        (row["name"], row["text"]) for row in ROWS
    ]


def test_one_text_on_standard_input(rows, textmill, stdin):
    stdin("水闸没有损坏。\r\n".encode())
    (printed_chunks,) = objects(textmill("chunks", "-", "--json").out)
    assert (printed_chunks["id"], printed_chunks["text"]) == ("standard input", "水闸没有损坏。\r\n")
    stdin(b"x\xff")
    ran = textmill("chunks", "-i", "-")
    assert (ran.code, ran.err) == (2, "standard input: cannot be read: not UTF-8\n")


def test_rows_that_cannot_be_read_are_reported(rows, textmill):
    with (rows / "in.jsonl").open("a") as file:
        file.write('{"name": "x", "text": 5}\n' * 1 + "".join(
            f'{{"name": {number}}}\n' for number in range(6)))
    ran = textmill("chunks", "in.jsonl", "--json")
    assert (ran.code, len(objects(ran.out))) == (0, 3)
    assert ran.err.splitlines()[1] == "in.jsonl:4: `text` must be a string, got integer"
    assert ran.err.splitlines()[6:] == ["and 2 more documents that cannot be read"]
    textmill("chunks", "in.jsonl", "--html", "x.html")
    assert "in.jsonl:4: `text` must be a string" in (rows / "x.html").read_text("utf-8")


def test_a_page_of_all_documents_or_of_one(rows, textmill):
    ran = textmill("chunks", "in.jsonl", "--id", "name", "--html", "x.html")
    made = (rows / "x.html").read_text("utf-8")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"x.html: {len(made.encode()):,} bytes, for any browser\n"
    assert [row["text"] in made for row in ROWS] == [True, True, True]
    assert "<dt>documents</dt><dd>3</dd>" in made
    one = textmill("chunks", "in.jsonl", "--id", "name", "--only", "bread", "--html", "-").out
    assert [row["text"] in one for row in ROWS] == [False, False, True]
    assert textmill("chunks", "in.jsonl", "--id", "name", "--html", "-").out == made


@pytest.mark.parametrize("name", ["page.html", "A.HTM", "a.pdf", "a.docx", "a.srt", "notes", "x.csv2"])
def test_a_file_of_another_kind_is_refused_with_all_that_is_read(rows, textmill, name):
    (rows / name).write_text("[tool.other]\nkey = 1\n")
    ran = textmill("chunks", name, "--json")
    line, hint = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert line.startswith(f"{name}: unknown kind of file, not .jsonl, ")
    assert line.endswith(".parquet, .txt, .md nor a job file (.toml)")
    assert hint.startswith("hint: convert it to Markdown or plain text")


@pytest.mark.parametrize("flags", [[], ["--size", "40", "--overlap", "6"], [
    "--set", "embed.passage_prefix=passage: {name}: ", "--size", "48"]])
def test_chunks_are_the_rows_of_a_run_on_the_same_rows(rows, textmill, flags):
    long = [{"name": f"r{n}", "text": f"{row['text']} " * 30} for n, row in enumerate(ROWS)]
    (rows / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    names = ("name", "start_char", "end_char", "text")
    assert textmill("run", "embed", "-i", "in.jsonl", "--id", "name", "-o", "v.jsonl", *flags).code == 0
    written = [tuple(row[n] for n in names) for row in objects((rows / "v.jsonl").read_text("utf-8"))]
    ran = textmill("chunks", "in.jsonl", "--id", "name", *flags, "--json")
    names = ("id", *names[1:])
    assert [tuple(chunk[n] for n in names) for chunk in objects(ran.out)] == written
    assert len(written) > 10


def test_the_settings_that_decide_are_named(rows, textmill):
    assert textmill("chunks", "in.jsonl", "--json").err == SETTINGS
    model = ["--kind", "openai", "--model", "intfloat/e5-base-v2", "--url", "http://127.0.0.1:1/v1"]
    assert textmill("chunks", "embed", "-i", "in.jsonl", *model, "--json").err == (
        SETTINGS.replace("wordllama\n", "o200k_base, prefix passage: \n")
    )


@pytest.mark.parametrize("name", ["job.toml", "job"])
def test_a_file_with_a_section_of_a_job_is_a_job(rows, textmill, name):
    (rows / name).write_text(
        'task = "feature-extraction"\ninput = {path = "in.jsonl", id = "name"}\n'
        'chunk = {size = 99, tokenizer = "o200k_base"}\n'
        '[[endpoint]]\nkind = "local"\n'
    )
    ran = textmill("chunks", name, "--json")
    assert [chunk["id"] for chunk in objects(ran.out)] == [row["name"] for row in ROWS], ran.err


def test_a_job_file_that_cannot_be_parsed_is_no_text(rows, textmill):
    (rows / "job.toml").write_text("[input\n")
    ran = textmill("chunks", "job.toml")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("job.toml:1: ")


@pytest.mark.parametrize("source", ["a.txt", "in.jsonl", "-"])
def test_chunks_needs_no_home_and_writes_nothing(rows, textmill, stdin, monkeypatch, source):
    (rows / "a.txt").write_text("One. Two.")
    stdin(b"One. Two.")
    monkeypatch.setenv("TEXTMILL_HOME", "/proc/none")
    assert textmill("chunks", source, "--json").code == 0
    assert sorted(path.name for path in rows.iterdir()) == ["a.txt", "in.jsonl"]


@pytest.mark.parametrize(("arguments", "code", "line"), [
    (["gone.md"], 2, "gone.md: cannot be read: No such file or directory"),
    (["gone.txt"], 2, "gone.txt: cannot be read: No such file or directory"),
    (["latin.txt"], 2, "latin.txt: cannot be read: not UTF-8"),
    (["gone"], 2, "gone: no such job file or template"),
    ([], 2, "chunks needs a file or a job"),
    (["in.jsonl", "-i", "other.jsonl"], 2, "in.jsonl: --input names another file"),
    (["in.jsonl", "--size", "3"], 2,
     "--size: chunk.overlap = 32 tokens must be smaller than chunk.size = 3 tokens"),
    (["in.jsonl", "--html", "in.jsonl"], 2, "--html = in.jsonl must end in .html, or be -"),
    (["in.jsonl", "--html", "-", "--json"], 2, "--html and --json cannot be combined"),
    (["in.jsonl", "--html", "none/x.html"], 13,
     "none/x.html: cannot be written (No such file or directory)"),
])
def test_errors_are_one_line(rows, textmill, arguments, code, line):
    (rows / "latin.txt").write_bytes(b"x\xff")
    ran = textmill("chunks", *arguments)
    assert (ran.code, ran.out, ran.err.splitlines()[0]) == (code, "", line)
    assert "Traceback" not in ran.err
