"""The commands that show: `search` and `templates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import msgspec
import numpy as np
from numpy.typing import NDArray

from jobs.cli.shell import pairs, reported
from pipeline.errors import PAUSING, EndpointError, OutageError, RefusedError, UsageError
from pipeline.text import printable

if TYPE_CHECKING:
    from jobs.spec.job import Job
    from pipeline.endpoints.http import HttpEndpoint


def search(
    output: str,
    question: str,
    count: int,
    job: str | None,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    *,
    as_json: bool,
) -> int:
    """The rows of an output nearest to the question, best first."""
    return reported(lambda: _search(output, question, count, job, overrides, flags, as_json))


def _search(
    output: str,
    question: str,
    count: int,
    job_path: str | None,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    as_json: bool,
) -> int:
    from jobs.spec.load import load
    from pipeline.search import metadata, nearest

    if not question.strip():
        raise UsageError("the question is blank")
    if count < 1:
        raise UsageError(f"--count = {count} must be at least 1")
    if output.endswith(".jsonl"):
        raise UsageError(
            f"{printable(output)}: search reads Parquet outputs",
            hint="run it again with -o x.parquet",
        )
    told = metadata(output)
    model = told.get("textmill.model")
    if model is None or told.get("textmill.task") != "feature-extraction":
        raise UsageError(
            f"{printable(output)}: not an embedding output of textmill",
            hint="search reads what `textmill run embed ... -o vectors.parquet` wrote",
        )
    job = None
    if job_path or flags or overrides:  # only the endpoint matters: the corpus stands for the input
        flags = dict(flags) | {"input.path": output, "output.path": "-"}
        job = load(job_path or "embed", pairs(overrides), flags, needs_output=False)
    vector = anyio.run(_embedded, question, model, job, output)
    hits = nearest(output, vector, count)
    if as_json:
        for hit in hits:
            print(msgspec.json.encode({"score": 0.0} | hit.row | {"score": hit.score}).decode())
        return 0
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for hit in hits:
        row = hit.row
        head = Text(f"{hit.score:.3f}  ", style="bold")
        head.append(printable(str(row.get(told.get("textmill.id", "id")))), style="bold cyan")
        if "_chunks" not in row and row.get("chunk") is not None:  # else columns of the user's own
            head.append(f"  {row['start_char']:,}..{row['end_char']:,}", style="dim")
        if row.get("section"):
            head.append(f"  {printable(str(row['section']), 80)}", style="dim")
        console.print(head)
        if row.get("text"):
            console.print(Text("       " + printable(" ".join(str(row["text"]).split()), 300)))
    return 0


async def _embedded(question: str, model: str, job: Job | None, output: str) -> NDArray[np.float32]:
    """The question's vector, by the model that made the output; shape (dim,), unit length.

    Of several endpoints the first answers whose model it is, and that can be reached.
    """
    from jobs.build import endpoint
    from jobs.home import home
    from pipeline.cache.keys import model_name
    from pipeline.cache.store import AnswerCache
    from pipeline.endpoints import local
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.endpoints.server_info import identify

    if model == f"local/{local.EMBEDDING_MODEL}":
        return np.asarray(local.embed([question])[0])
    if job is None:
        raise UsageError(
            f"{printable(output)}: embedded with {printable(model)}, which is not local",
            hint="--job JOB, the job that wrote it, or --kind, --model and --url",
        )
    if job.is_local:
        raise UsageError(f"{job.address}: its model is local, the output's {printable(model)}")
    named: list[str] = []
    away: OutageError | None = None
    for spec in job.endpoints:
        told = endpoint(job, spec, with_secret=False)
        if spec.kind == "local" or (told.model and model_name(told) != model):
            named.append(model_name(told))
            continue
        try:
            told = endpoint(job, spec, with_secret=True)
            with closing(AnswerCache(home() / "answers")) as cache:
                async with HttpEndpoint(told) as http:
                    found = await identify(told, http.get, cache, 0, 10.0)
                named.append(model_name(found.endpoint))
                if named[-1] == model:
                    async with HttpEndpoint(*found) as http:
                        return await _asked(http, question)
        except OutageError as error:
            away = away or error
    if away is not None:
        raise away
    several = dict.fromkeys(named)
    if len(several) > 1:
        none = f"none of its models {', '.join(several)} is"
    else:
        none = f"its model {named[0]} is not"
    raise UsageError(f"{job.address}: {printable(none, 1_000)} the output's {printable(model)}")


async def _asked(http: HttpEndpoint, question: str) -> NDArray[np.float32]:
    """The endpoint's vector for the question, unit length. Raises: OutageError, RefusedError."""
    from pipeline.records import Answer, Chunk, Request

    name = http.endpoint.name
    try:
        answered = await http.answer([Request(b"", question, 0, Chunk(0, len(question), 0))])
    except EndpointError as error:
        refused = OutageError if error.kind in PAUSING else RefusedError
        raise refused(f"endpoint `{name}`: {error}") from None
    (answer,) = answered.settled
    if not isinstance(answer, Answer) or not isinstance(answer.value, bytes):
        raise RefusedError(f"endpoint `{name}`: no vector for the question")
    vector = np.frombuffer(answer.value, dtype="<f4")
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
