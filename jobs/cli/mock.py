"""`textmill mock`: a server with made-up answers, for tests and for trying out a job."""

from __future__ import annotations

from typing import Any

import click

from jobs.cli.shell import command


@command(has_json=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Host to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port; 0 takes a free one.")
@click.option("--key", metavar="KEY", help="Refuse calls without this bearer key.")
@click.option(
    "--latency", "latency_seconds", default=0.0, show_default=True, help="Latency in seconds."
)
@click.option("--dimension", default=384, show_default=True, help="Dimension of the vectors.")
@click.option("--batch-limit", type=int, metavar="N", help="Refuse calls with more inputs.")
@click.option("--max-input-tokens", type=int, metavar="N", help="Refuse longer inputs.")
@click.option("--engine", default="tei", show_default=True, help="Engine behind `/`: tei or tgi.")
@click.option("--task", "tasks", multiple=True, metavar="MODEL=TAG", help="Task of a model.")
@click.option(
    "--fault", "faults", multiple=True, metavar="FAULT", help="Fault such as '429 x3' or '500 30%'."
)
@click.option("--limit", metavar="LIMIT", help="Rate limit: 'bucket calls=50/s headers=openai'.")
@click.option("--seed", default=0, show_default=True, help="Seed of random faults.")
@click.option("--record", is_flag=True, help="Record inputs and bodies for the bill.")
@click.option("--public", is_flag=True, help="Allow a host that other machines can reach.")
def mock(**options: Any) -> int:
    """Serve every protocol with made-up answers, for tests. Inject faults, enforce limits, count
    costs."""
    from jobs.mock import serve

    serve(**options)
    return 0
