"""Who may read an output need not read the state of its runs."""

import json
import stat

import pytest


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_what_a_run_leaves_beside_its_output_is_private(tmp_path, monkeypatch, textmill, output):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": n, "text": f"Row {n}: the weir stood at {n} mm."} for n in range(5)]
    for night in range(2):
        (tmp_path / "in.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows[night:]) + "not JSON\n"
        )
        ran = textmill("run", "embed", "-i", "in.jsonl", "-o", output, "--id", "id",
                       "--changes", "changes.jsonl")
        assert ran.code == 3, ran.err
    folder = tmp_path / f"{output}.run"
    for path in [*folder.glob("*"), *folder.glob("runs/**/*")]:
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
        if path.is_dir():
            assert not others or path.name == "versions", path
        else:
            assert not others, path


def test_changes_that_cannot_be_written_are_refused_before_anything_is_paid(
    tmp_path, monkeypatch, textmill
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"text": "One row."}\n')
    ran = textmill("run", "embed", "-i", "in.jsonl", "-o", "other.parquet")
    assert ran.code == 0
    for workdir in ("/proc/changes.jsonl", "other.parquet.run/x.jsonl"):
        ran = textmill("run", "embed", "-i", "in.jsonl", "-o", "out.parquet", "--changes", workdir)
        assert ran.code == 2, workdir
        assert not (tmp_path / "out.parquet").exists()
