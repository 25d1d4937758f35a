"""What is never published: an output without results."""

import pytest

from tests.support.nights import Project, small


@pytest.fixture
def new_project(tmp_path, monkeypatch):
    small(monkeypatch)
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / "home"))
    return lambda **given: Project(tmp_path, monkeypatch, **given)


def rows(*numbers):
    return [{"id": f"r{number}", "text": f"Row number {number}."} for number in numbers]


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl", "o"])
def test_an_output_in_which_no_row_is_ok_is_not_published(new_project, out):
    project = new_project(input__id="id", out=out)
    project.rows([{"id": "a", "text": 1}, {"id": "b", "text": 2}, {"id": "c", "text": 3}])
    project.run(code=4)
    assert not (project.folder / out).exists()
    message = str(project.error)
    assert "no row is ok, 3 of 3 rows failed: nothing was published; most often: " in message
    assert message.endswith("in.jsonl:1: `text` must be a string, got integer")
    project.rows(rows(1, 2))
    project.run()
    content = project.content()
    project.poison = "Row"
    project.rows(rows(3, 4))
    project.run(code=4)
    assert str(project.error).endswith("in.jsonl:1: poisoned")
    assert project.content() == content


def test_blank_rows_are_ok_and_partial_rows_have_results(new_project):
    project = new_project(input__id="id", out="o.jsonl")
    project.rows([{"id": "a", "text": " "}, {"id": "b", "text": ""}])
    assert project.run(code=0).ok == 2
    words = " ".join(f"word{number}" for number in range(20))
    project.rows([{"id": "a", "text": f"{words} poison"}])
    summary = project.run(code=3)
    assert (summary.ok, summary.partial) == (0, 1)


def test_the_floor_of_max_failed_is_in_its_message(new_project):
    project = new_project(input__id="id", guard__max_failed=0.1)
    project.rows([*rows(*range(25)), *({"id": number, "text": None} for number in range(21))])
    project.run(code=4)
    assert "allows (20 rows, which may always fail)" in str(project.error)
