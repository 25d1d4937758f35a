"""Write reports.parquet from reports.jsonl: the same rows with the types that Parquet can hold."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("language", pa.dictionary(pa.int8(), pa.string())),
        ("year", pa.int32()),
        ("published", pa.date32()),
        ("tags", pa.list_(pa.string())),
        ("sensitive", pa.bool_()),
        ("text", pa.string()),
    ]
)


def table(jsonl: Path) -> pa.Table:
    """The rows of the JSONL file, in its order."""
    rows = [json.loads(line) for line in jsonl.read_text("utf-8").splitlines()]
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        is_text = pa.types.is_date(field.type)
        columns.append(
            pa.array(values).cast(field.type) if is_text else pa.array(values, field.type)
        )
    return pa.table(columns, schema=SCHEMA)


if __name__ == "__main__":
    here = Path(__file__).parent
    pq.write_table(table(here / "reports.jsonl"), here / "reports.parquet", compression="zstd")
