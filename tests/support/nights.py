"""A project for tests of reuse: the whole engine, answers made up in this process."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import anyio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.build import build
from jobs.spec.load import load
from pipeline import run as engine
from pipeline.endpoints.connect import Connections
from pipeline.records import Answer, Answered, Failure


class Answerer:
    """Answers by the input alone; fails those that hold `poison`. Counts what was asked."""

    def __init__(self, endpoint):
        self.endpoint, self.opened = endpoint, 0
        self.asked, self.poison, self.turn, self.dimension = [], "poison", 0.0, 4
        """`turn`: how far the model's vectors are turned away."""

    async def open(self):
        self.opened += 1

    async def answer(self, requests):
        assert self.opened == 1
        self.asked += [request.input for request in requests]
        return Answered([self._one(request) for request in requests])

    def _one(self, request):
        if self.poison and self.poison in request.input:
            return Failure("invalid", "poisoned")
        raw = hashlib.sha256(request.input.encode()).digest()
        if self.endpoint.task == "feature-extraction":
            vector = np.frombuffer(raw[: 4 * self.dimension], "<u4").astype("<f4") / 2**32 + 0.01
            vector[0] += self.turn
            return Answer(vector.astype("<f4").tobytes(), 1, 0, False, "m")
        return Answer(raw.hex(), 1, 1, False, "m")


class Project:
    """A folder with an input and an output, and runs over them."""

    def __init__(self, folder, monkeypatch, *, template="embed", out="o.parquet", **flags):
        self.folder, self.patch = Path(folder), monkeypatch
        self.out, self.flags, self.template = out, flags, template
        self.input = self.folder / flags.pop("name", "in.jsonl")
        self.answerer = None
        self.poison, self.turn, self.dimension = "poison", 0.0, 4

    def rows(self, rows):
        if self.input.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), self.input, row_group_size=5)
        else:
            self.input.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *, changes=None, out=None, code=0, accept_unknown=False, **flags):
        settings = {
            "input.path": str(self.input), "output.path": str(self.folder / (out or self.out)),
            "endpoint.kind": "openai", "endpoint.url": "http://127.0.0.1:9/v1",
            "endpoint.model": "m", "chunk.size": 8, "chunk.overlap": 0, "chunk.method": "fixed", "guard.drift_texts": 0,
            "endpoint.batch_size": 3 if self.template == "embed" else 1, "guard.max_removed": 1.0, "guard.max_failed": 1.0,
            **{key.replace("__", "."): value for key, value in (self.flags | flags).items()},
        }  # fmt: skip
        pipeline = build(load(self.template, flags=settings), changes=changes and str(changes))

        @contextlib.asynccontextmanager
        async def answering(endpoints, cache, **_):
            self.answerer = Answerer(endpoints[0])
            self.answerer.poison, self.answerer.turn = self.poison, self.turn
            self.answerer.dimension = self.dimension
            yield Connections([self.answerer])

        self.events = []
        with self.patch.context() as patch:
            patch.setattr(engine, "connect", answering)
            ended = anyio.run(engine.run, pipeline, self.events.append, None, accept_unknown)
        if ended.error is not None and code in (0, 3):
            raise ended.error
        assert ended.summary.exit in (code, 3 if code == 0 else code)
        self.error = ended.error
        return ended.summary

    def new_calls(self):
        return len(self.answerer.asked)

    def content(self, out=None):
        path = self.folder / (out or self.out)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file.read_bytes() for file in files]

    def rebuilt(self):
        """What a run from an empty run folder writes, with the same answers."""
        out = f"anew/{self.out}"
        self.run(out=out)
        content = self.content(out)
        shutil.rmtree(self.folder / "anew")
        return content

    def parts(self):
        """What stays the same of a file that is kept; an inode alone may be used again."""
        files = Path(f"{self.folder / self.out}.run/parts").glob("*[!x]")
        stats = {path.name: path.stat() for path in files if path.suffix != ".index"}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def small(monkeypatch):
    """Parts of a few rows, row groups of five, and everything spilled."""
    from pipeline.disk import spill
    from pipeline.parts import join, reuse
    from pipeline.parts import part_file as parts
    from pipeline.source import scan as survey
    from pipeline.source import survey as input_survey

    for module, name, value in [
        (survey, "MIN_PART_ROWS", 3), (survey, "MAX_PART_ROWS", 9), (survey, "MEAN_ROWS_TO_BORDER", 4),
        (parts, "GROUP_ROWS", 5), (spill, "PACKED_ROWS", 7), (spill, "FLUSH_ROWS", 7), (survey, "PACKED_ROWS", 7),
        (reuse, "PACKED_ROWS", 7), (join, "PACKED_ROWS", 7), (input_survey, "PACKED_ROWS", 7),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, value)
