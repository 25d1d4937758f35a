"""`textmill search`: the chunks of an embedding output that are nearest to a question."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from jobs.cli.job_options import GroupedCommand, JobSettings, job_options, pairs
from jobs.cli.shell import command, print_json, print_message
from jobs.spec.job import KEY
from pipeline.endpoints.kinds import KINDS
from pipeline.errors import EndpointError, OutageError, RefusedError, UsageError
from pipeline.prepare.prefixes import SERVICE_PARAMETERS
from pipeline.records import Answer, Chunk, Endpoint, Failure, Request, Stop
from pipeline.tasks import TASKS
from pipeline.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jobs.spec.job import Job
    from pipeline.endpoints.http import HttpEndpoint


_ENDPOINT_KEYS = (
    replace(KEY["endpoint.kind"], help="Protocol of the endpoint that embeds the question."),
    replace(KEY["endpoint.model"], help="Model of that endpoint."),
    replace(KEY["endpoint.url"], help="Base URL of that endpoint."),
)


_PATIENCE = Stop(max_start_seconds=10.0, max_outage_seconds=10.0, is_attended=True)
"""A person waits for the answer."""


@command(cls=GroupedCommand)
@click.argument("output", metavar="OUT")
@click.argument("question")
@click.option("-n", "--count", default=5, show_default=True, help="Number of chunks to print.")
@click.option(
    "--job", "job_path", metavar="JOB", help="Job whose endpoint embeds the question, if not local."
)
@job_options(_ENDPOINT_KEYS, set_help="Set any key of that endpoint's job.")
def search(
    output: str,
    question: str,
    count: int,
    job_path: str | None,
    settings: JobSettings,
    as_json: bool,
) -> int:
    """Find the chunks of an output OUT that are nearest to QUESTION."""
    import anyio

    from pipeline.disk.output_path import output_suffix
    from pipeline.search import metadata, nearest

    if not question.strip():
        raise UsageError("the question is blank")
    if count < 1:
        raise UsageError(f"--count = {count} must be at least 1")
    if output_suffix(output) == ".jsonl":
        raise UsageError(
            f"{printable(output)}: search reads Parquet outputs",
            hint="run it again with -o x.parquet",
        )
    tags = metadata(output)
    model, task = tags.get("textmill.model"), TASKS.get(tags.get("textmill.task", ""))
    if model is None or task is None or task.value != "vector":
        raise UsageError(
            f"{printable(output)}: not an embedding output of textmill",
            hint="search reads what `textmill run embed ... -o vectors.parquet` wrote",
        )
    job = None
    if job_path or settings != JobSettings():
        if not job_path:
            _check_flags(settings, model)
        # Only the endpoint of the job is used; the output is a valid input path.
        flags = {**settings.flags, "input.path": output, "output.path": "-"}
        job = replace(settings, flags=flags).load(job_path or "embed", needs_output=False)
        _note_parameters(job, settings)
    if prefix := tags.get("textmill.query_prefix", ""):
        print_message(f"prefix `{printable(prefix)}` before the question, as the output says")
        question = prefix + question
    vector = _embed_locally(question, model, tags["textmill.task"])
    if vector is None:
        vector = anyio.run(_embed, question, model, job, output)
    hits = nearest(output, vector, count)
    if as_json:
        for hit in hits:
            print_json({"score": 0.0} | hit.row | {"score": hit.score})
        return 0
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for hit in hits:
        row = hit.row
        head = Text(f"{hit.score:.3f}  ", style="bold")
        head.append(printable(str(row.get(tags.get("textmill.id", "id")))), style="bold cyan")
        if "_chunks" not in row and row.get("chunk") is not None:  # else they come from the input
            head.append(f"  {row['start_char']:,}..{row['end_char']:,}", style="dim")
        if row.get("section"):
            head.append(f"  {printable(str(row['section']), 80)}", style="dim")
        console.print(head)
        if row.get("text"):
            console.print(Text("       " + printable(" ".join(str(row["text"]).split()), 300)))
    return 0


def _check_flags(settings: JobSettings, model: str) -> None:
    """Raises: UsageError if the endpoint that the flags describe lacks its model or its URL."""
    kind = KINDS.get(str(settings.flags.get("endpoint.kind")))
    if kind is None or kind.is_embedded:
        return
    given = {*settings.flags, *(key for key, _ in pairs(settings.overrides))}
    needed = {"model": kind.needs_model, "url": kind.url is None}
    for name, is_needed in needed.items():
        if is_needed and f"endpoint.{name}" not in given:
            raise UsageError(
                f"--kind {settings.flags['endpoint.kind']} needs --{name} as well",
                hint=f"the output was embedded with {printable(model)}",
            )


def _note_parameters(job: Job, settings: JobSettings) -> None:
    """Names a parameter that makes the service read the question as it reads passages."""
    typed = {key for key, _ in pairs(settings.overrides)}
    for name in sorted(SERVICE_PARAMETERS & set(job.parameters)):
        if (key := f"parameters.{name}") not in typed:
            value = printable(str(job.parameters[name]), 60)
            hint = f"--set {key}=VALUE changes it"
            print_message(f"the question is sent with {key} = {value}; {hint}")


def _embed_locally(question: str, model: str, task: str) -> NDArray[np.float32] | None:
    """The question's vector by a model in this process; None if the model is not embedded."""
    from chunkers.boundaries.scan import sentences

    for name, kind in KINDS.items():
        local_model = kind.models.get(task, "")
        if kind.is_embedded and model == f"{name}/{local_model}":
            endpoint = Endpoint(name, name, task, "", identity=(name, local_model))
            answer = kind.embedded_model().answerer(endpoint, sentences)
            return _vector(name, *answer([_request(question)]))
    return None


async def _embed(question: str, model: str, job: Job | None, output: str) -> NDArray[np.float32]:
    """The question's vector by the model of the output; shape (dim,), unit length.

    The first endpoint that has this model and is reachable answers.
    """
    from jobs.build import endpoint
    from pipeline.cache.keys import model_name
    from pipeline.cache.store import AnswerCache
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.endpoints.server_info import identify

    if job is None:
        raise UsageError(
            f"{printable(output)}: embedded with {printable(model)}, which is not local",
            hint="use --job JOB with the job that wrote it, or --kind, --model and --url",
        )
    if job.is_local:
        raise UsageError(
            f"{job.address}: its model is local, that of the output is {printable(model)}"
        )
    models: list[str] = []
    outage: OutageError | None = None
    for spec in job.endpoints:
        candidate = endpoint(job, spec, with_secret=False)
        if spec.facts.models or (candidate.model and model_name(candidate) != model):
            models.append(model_name(candidate))
            continue
        try:
            reachable = endpoint(job, spec, with_secret=True)
            # For the identity of the server only: a search leaves nothing behind.
            with TemporaryDirectory() as folder, closing(AnswerCache(Path(folder))) as cache:
                async with HttpEndpoint(reachable) as http:
                    identified = await identify(reachable, http.get, cache, 0, _PATIENCE)
                models.append(model_name(identified.endpoint))
                if models[-1] == model:
                    async with HttpEndpoint(*identified) as http:
                        return await _send_question(http, question)
        except OutageError as error:
            outage = outage or error
    if outage is not None:
        raise outage
    distinct = dict.fromkeys(models)
    problem = f"its model {models[0]} is not"
    if len(distinct) > 1:
        problem = f"none of its models {', '.join(distinct)} is"
    shown_model = printable(model)
    raise UsageError(
        f"{job.address}: {printable(problem, 1_000)} that of the output, {shown_model}"
    )


async def _send_question(http: HttpEndpoint, question: str) -> NDArray[np.float32]:
    """The endpoint's vector for the question, unit length. Raises: OutageError, RefusedError."""
    import numpy as np

    name = http.endpoint.name
    try:
        answered = await http.answer([_request(question)])
    except EndpointError as error:
        refused = OutageError if error.facts.is_pausing else RefusedError
        raise refused(f"endpoint `{name}`: {error}") from None
    (answer,) = answered.settled
    vector = _vector(name, answer)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def _request(question: str) -> Request:
    return Request(b"", question, 0, Chunk(0, len(question), 0))


def _vector(endpoint: str, result: Answer | Failure) -> NDArray[np.float32]:
    import numpy as np

    if not isinstance(result, Answer) or not isinstance(result.value, bytes):
        raise RefusedError(f"endpoint `{endpoint}`: returned no vector for the question")
    return np.frombuffer(result.value, dtype="<f4")
