"""Which lines are the header of a Markdown table."""

import pytest

from chunkers.boundaries.tables import tables

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n"


@pytest.mark.parametrize(("text", "found"), [
    (TABLE, [(0, 20, 40)]),
    ("x\n\n" + TABLE + "\ny", [(3, 23, 43)]),
    ("a|b\n-|-\n1|2", [(0, 8, 11)]),
    ("a|b\r\n:-:|-:\r\n1|2\r\nend\r\n", [(0, 13, 18)]),
    ("> | a | b |\n> |---|---|\n> | 1 | 2 |\n", [(0, 24, 36)]),
    (TABLE + "\n" + TABLE, [(0, 20, 40), (41, 61, 81)]),
    ("| a \\| c | b |\n|---|---|\n| 1 | 2 |\n", [(0, 25, 35)]),
    ("| a |\n|---|\n| 1 |\n", [(0, 12, 18)]),
    ("| a | b |\n|---|---|", [(0, 19, 19)]),
    ("```\n" + TABLE + "```\n" + TABLE, [(48, 68, 88)]),
    ("~~~\n```\n" + TABLE + "~~~\n", []),
    ("| a | b | c |\n|---|---|\n| 1 | 2 |\n", []),
    ("|---|---|\n| 1 | 2 |\n", []),
    ("a\n---\n| 1 | 2 |\n", []),
    ("\n|---|---|\n", []),
    ("1 | 2\n3 | 4\n", []),
    ("", []),
])
def test_a_table_has_a_header_a_rule_of_as_many_cells_and_rows(text, found):
    assert [tuple(table) for table in tables(text)] == found
