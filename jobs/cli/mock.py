"""`textmill mock`: a server with made-up answers, for tests and for trying out a job."""

from __future__ import annotations

from typing import Any

import click

from jobs.cli.shell import command


@command(has_json=False)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, help="0: a free one.")
@click.option("--key", metavar="KEY", help="Refuse calls without this bearer key.")
@click.option(
    "--latency", "latency_seconds", default=0.0, show_default=True, help="Seconds per call."
)
@click.option("--dimension", default=384, show_default=True, help="Of its vectors.")
@click.option("--batch-limit", type=int, metavar="N", help="Refuse calls with more inputs.")
@click.option("--max-input-tokens", type=int, metavar="N", help="Refuse longer inputs.")
@click.option("--engine", default="tei", show_default=True, help="Behind `/`: tei or tgi.")
@click.option("--task", "tasks", multiple=True, metavar="MODEL=TAG", help="What a model serves.")
@click.option(
    "--fault", "faults", multiple=True, metavar="FAULT", help="Such as '429 x3' or '500 30%'."
)
@click.option("--limit", metavar="LIMIT", help="Such as 'bucket calls=50/s headers=openai'.")
@click.option("--seed", default=0, show_default=True, help="Of faults by chance.")
@click.option("--record", is_flag=True, help="Keep inputs and bodies for the bill.")
@click.option("--public", is_flag=True, help="Allow a host that others can reach.")
def mock(**options: Any) -> int:
    """Serve every protocol with made-up answers. Misbehaves as told, and keeps the bill."""
    from jobs.mock import serve

    serve(**options)
    return 0
