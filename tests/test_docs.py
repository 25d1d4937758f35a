"""Docs under test: the README and the pages describe what the program does."""

import json
import re
import runpy
import shlex

import pytest

from pipeline.endpoints.kinds import KINDS
from tests.support import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "sample_data" / "README.md"]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FERRY = "en-report-cable-ferry-accident"
"""The document that answers the README's question."""


def test_the_reference_pages_are_what_the_program_says():
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made["command_line"]()
    assert (ROOT / "docs" / "job-file.md").read_text("utf-8") == made["job_file"]()
    assert (ROOT / "docs" / "design.md").read_text("utf-8") == made["words"]()


def test_every_exit_code_is_documented():
    from pipeline.errors import CLASSES

    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    for code, name in CLASSES.items():
        if code == 10:  # of a later version
            continue
        assert re.search(rf"^\| .*\b{code}\b.* \| .*{name}.* \|", page, re.MULTILINE), code


def test_every_task_of_every_kind_is_documented():
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    for name, kind in KINDS.items():
        for task in kind.tasks:
            row = rf"^\| `{name}` \| ([a-z-]+, )*{task}(, [a-z-]+)* \|"
            assert re.search(row, page, re.MULTILINE), (name, task)


@pytest.mark.parametrize(("key", "named"), [
    ("model", [name for name, kind in KINDS.items() if not kind.needs_model]),
    ("url", [name for name, kind in KINDS.items() if kind.url]),
    ("provider", [name for name, kind in KINDS.items() if kind.providers]),
    ("concurrency", [f"{name} {kind.concurrency}" for name, kind in KINDS.items() if kind.concurrency != 256]),
    ("batch_size", [f"{name} {kind.embedding_batch}" for name, kind in KINDS.items() if kind.embedding_batch != 32]),
])  # fmt: skip
def test_the_job_file_page_says_what_the_table_of_kinds_says(key, named):
    page = (ROOT / "docs" / "job-file.md").read_text("utf-8")
    meaning = re.search(rf"^\| `endpoint\.{key}` \|.*\| (.*) \|$", page, re.MULTILINE)[1]
    shown = re.findall(rf"\b(?:{'|'.join(KINDS)})\b(?!-)(?: \d+)?", meaning)
    assert sorted(shown) == sorted(named)


def test_the_table_of_prefixes_says_what_is_sent_and_has_every_family():
    from pipeline.prepare.prefixes import FAMILIES, Prefixes, plain_name, prefixes_of

    page = (ROOT / "docs" / "embedding.md").read_text("utf-8").partition("## Known families")[2]
    names, cell = set(), r"((?:[^|\\\n]|\\.)*) ?"
    for models, *texts in re.findall(rf"^\| (`.+?`) \| {cell}\| {cell}\|$", page, re.MULTILINE):
        wanted = [text.strip().strip("`").replace("\\n", "\n").replace("\\|", "|") for text in texts]
        for name in re.findall("`([^`]+)`", models):
            assert prefixes_of(name) == Prefixes(*wanted), name
            names.add(plain_name(name))
    assert not [family for family in FAMILIES if not any(re.fullmatch(family, name) for name in names)]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    plain = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = []
    for heading in re.findall(r"^#{1,6} (.+)$", plain, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page):
    for target in LINK.findall(page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        assert not path.startswith(("http:", "/")), target
        if path.startswith("https:"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT) and file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_links_with_a_wrong_anchor_would_be_found():
    page = ROOT / "docs" / "errors.md"
    assert {"exit-codes", "failed-rows", "error-classes"} <= set(anchors(page))
    assert "failed-row" not in anchors(page)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    linked = {target.partition("#")[0] for target in LINK.findall(index)}
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert linked == pages - {"index.md"}


def test_the_pictures_are_small():
    for name in ("chunks", "report"):
        assert f"docs/images/{name}.png" in README
        assert (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 150_000


def test_python_examples_run(tmp_path, monkeypatch, textmill):
    """Those of the pages `getting-started` and `extending`, in the folder of a first run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text("\n".join(samples()[:3]) + "\n", "utf-8")
    assert textmill("run", "embed", "-i", "docs.jsonl", "--id", "id", "-o", "vectors.parquet").code == 0
    known = {}
    for name in ("getting-started", "extending"):
        page = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(block, name, "exec"), known)
    assert known["vectors"].shape[1] == 256
    text = "one\n\ntwo words\nthree"
    spans = [(c.start_char, c.end_char) for c in known["by_line"](text, size=8, overlap=0, tokenizer="o200k_base")]
    assert [text[start:end] for start, end in spans] == ["one\n", "two words\n", "three"]


def test_the_job_of_the_routing_page_is_a_job(tmp_path, monkeypatch):
    from jobs.spec.load import load

    page = (ROOT / "docs" / "routing.md").read_text("utf-8")
    (tmp_path / "job.toml").write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1], "utf-8")
    made = load(str(tmp_path / "job.toml"), (), {})
    assert [each.name for each in made.endpoints] == ["hub", "inside", "spare"]
    assert [each.fallback for each in made.endpoints] == [False, False, True]


def samples():
    """Lines of the sample data; that of the README's question comes first."""
    lines = (ROOT / "sample_data" / "reports.jsonl").read_text("utf-8").splitlines()
    return sorted(lines, key=lambda line: json.loads(line)["id"] != FERRY)


def commands():
    """Every textmill command of the README's table; that of a schedule is in test_nightly."""
    found = [each for each in re.findall(r"`(textmill [^`]+)`", README) if len(each.split()) > 3]
    assert len(found) >= 8
    return [each for each in found if "127.0.0.1" not in each and "schedule" not in each]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text("\n".join(samples()[:6]) + "\n", "utf-8")
    import pyarrow.parquet as pq

    small = pq.read_table(ROOT / "sample_data" / "reports.parquet").slice(0, 6)
    pq.write_table(small, tmp_path / "docs.parquet")
    pq.write_table(small, tmp_path / "table.parquet")
    (tmp_path / "report.md").write_text(README, "utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ferry.md").write_text(json.loads(samples()[0])["text"], "utf-8")
    return tmp_path


def test_the_readmes_commands_work_as_they_stand(workdir, textmill):
    made = re.compile(r"-o (\S+)")
    for command in sorted(commands(), key=lambda each: "search" in each):
        ran = textmill(*shlex.split(command)[1:])
        assert ran.code == 0, (command, ran.err)
        for output in made.findall(command):
            assert (workdir / output).exists(), command
        if "search" in command:
            assert FERRY in ran.out.splitlines()[0]


def test_the_readmes_job_file_is_accepted(workdir, monkeypatch):
    from jobs.spec.load import load

    jobs = []
    for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL):
        (workdir / "job.toml").write_text(block, "utf-8")
        jobs.append(load(workdir / "job.toml"))
    (embeds,) = jobs
    assert embeds.endpoints[0].model == "BAAI/bge-small-en-v1.5"
    assert (embeds.chunk.size, embeds.chunk.overlap) == (256, 32)


def test_the_readme_and_the_makefile_name_the_same_commands():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\$ make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "\nmake test " in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_page_says_only_commands_that_exist():
    from jobs.commands import cli

    for page in (ROOT / "docs").rglob("*.md"):
        for name in re.findall(r"`textmill (\w+)", page.read_text("utf-8")):
            assert name in cli.commands, f"{page}: textmill {name}"


def test_the_readmes_demo_shows_its_true_output(textmill, tmp_path, monkeypatch):
    """What `make demo` runs, line by line; times and the ends of long lines aside."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    told = ""
    shown = README.split("$ make demo\n")[1].split("\n$ make test")[0]
    for line in re.findall(r"^\t\$\(BIN\)/(textmill .+)$", makefile, re.MULTILINE):
        words = shlex.split(line.replace("out/vectors.parquet", str(tmp_path / "vectors.parquet")))
        ran = textmill(*words[1:])
        assert ran.code == 0, ran.err
        # A run of more than ten seconds, on a busy machine, shows its progress.
        told += re.sub(r"(?m)^.* documents, .*calls/s.*\n", "", f".venv/bin/{line}\n{ran.err}{ran.out}")
    assert len(shown.splitlines()) == len(told.splitlines())
    for line in shown.splitlines():
        expected = re.sub(r", [\d.]+ s$", "", line).split(" …")[0]
        assert expected in told, told
