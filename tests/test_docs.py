"""Docs under test: what README and the reference pages say is what the program does."""

import re
import runpy
import shlex

import pytest

from tests.support import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_the_reference_pages_are_what_the_program_says():
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made["command_line"]()
    assert (ROOT / "docs" / "job-file.md").read_text("utf-8") == made["job_file"]()


def test_every_exit_code_is_documented():
    from pipeline.errors import CLASSES

    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    for code, name in CLASSES.items():
        if code == 10:  # of a later version
            continue
        assert re.search(rf"^\| .*\b{code}\b.* \| .*{name}.* \|", page, re.MULTILINE), code


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_job_of_the_routing_page_is_a_job(tmp_path, monkeypatch):
    from jobs.spec.load import load

    page = (ROOT / "docs" / "routing.md").read_text("utf-8")
    (tmp_path / "job.toml").write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1], "utf-8")
    made = load(str(tmp_path / "job.toml"), (), {})
    assert [each.name for each in made.endpoints] == ["hub", "inside", "spare"]
    assert [each.fallback for each in made.endpoints] == [False, False, True]


def commands():
    """Every textmill command of the README's table and blocks."""
    found = re.findall(r"`(textmill [^`]+)`", README) + re.findall(
        r"^\$ (textmill .+)$", README, re.MULTILINE
    )
    assert len(found) >= 8
    return [command for command in found if "127.0.0.1" not in command]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    samples = (ROOT / "sample_data" / "reports.jsonl").read_text("utf-8").splitlines()[:6]
    (tmp_path / "docs.jsonl").write_text("\n".join(samples) + "\n", "utf-8")
    import pyarrow.parquet as pq

    small = pq.read_table(ROOT / "sample_data" / "reports.parquet").slice(0, 6)
    pq.write_table(small, tmp_path / "docs.parquet")
    pq.write_table(small, tmp_path / "table.parquet")
    (tmp_path / "report.md").write_text(README, "utf-8")
    return tmp_path


def test_the_readmes_commands_work_as_they_stand(place, mill):
    made = re.compile(r"-o (\S+)")
    for command in sorted(commands(), key=lambda each: "search" in each):
        ran = mill(*shlex.split(command)[1:])
        assert ran.code == 0, (command, ran.err)
        for output in made.findall(command):
            assert (place / output).exists(), command


def test_the_readmes_job_file_is_accepted(place, monkeypatch):
    from jobs.spec.load import load

    jobs = []
    for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL):
        (place / "job.toml").write_text(block, "utf-8")
        jobs.append(load(place / "job.toml"))
    (embeds,) = jobs
    assert embeds.endpoints[0].model == "BAAI/bge-small-en-v1.5"
    assert (embeds.chunk.size, embeds.chunk.overlap) == (256, 32)


def test_the_readme_and_the_makefile_name_the_same_commands():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\$ make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_page_says_only_commands_that_exist():
    from jobs.__main__ import cli

    for page in (ROOT / "docs").rglob("*.md"):
        for name in re.findall(r"`textmill (\w+)", page.read_text("utf-8")):
            assert name in cli.commands, f"{page}: textmill {name}"


def test_the_readmes_demo_shows_its_true_output(mill, tmp_path, monkeypatch):
    """What `make demo` runs, line by line; times and the ends of long lines aside."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    told = ""
    for line in re.findall(r"^\t\$\(BIN\)/(textmill .+)$", makefile, re.MULTILINE):
        words = shlex.split(line.replace("out/vectors.parquet", str(tmp_path / "vectors.parquet")))
        ran = mill(*words[1:])
        assert ran.code == 0, ran.err
        told += ran.err + ran.out
    shown = README.split("$ make demo\n")[1].split("\n$ make test")[0]
    for line in shown.splitlines():
        expected = re.sub(r", [\d.]+ s$", "", line).split(" …")[0]
        assert expected in told, told
