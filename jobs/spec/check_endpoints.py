"""Checks across endpoints and rules: replicas, routes, one vector space per output.

Two mistakes cannot be corrected later: vectors of two models in one output, and a row sent to an
endpoint that must not read it. Both are refused before any row is read.
"""

from __future__ import annotations

from jobs.spec.job import EndpointSpec, Job
from jobs.spec.keys import KeyLocations, shown
from pipeline.tasks import TASKS
from pipeline.text import did_you_mean


def check_replicas(job: Job, locations: KeyLocations) -> None:
    """Refuses a replica of an unknown endpoint, of itself, of a replica or of another model."""
    by_name = {endpoint.name: endpoint for endpoint in job.endpoints}
    for replica in job.endpoints:
        if replica.replica_of is None:
            continue
        key = job.key(replica, "replica_of")
        others = [name for name in by_name if name != replica.name]
        if replica.replica_of not in others:
            names = f", one of {', '.join(others[:10])}" if others else ""
            near = did_you_mean(replica.replica_of, others)
            raise locations.wrong(
                key, f"must name another endpoint{names}, got {shown(replica.replica_of)}{near}"
            )
        origin = by_name[replica.replica_of]
        if origin.replica_of is not None:
            raise locations.wrong(
                key, f"must not name a replica, `{origin.name}` is one of `{origin.replica_of}`"
            )
        if replica.facts.models != origin.facts.models:
            embedded = replica if replica.facts.models else origin
            raise locations.refuse(
                f"endpoint `{replica.name}` cannot be a replica of `{origin.name}`: "
                f"kind {embedded.kind} has its own model",
                key,
            )
        for last, value, origin_value in (
            ("model", replica.model, origin.model),
            ("revision", replica.revision, origin.revision),
            ("identity", replica.identity or origin.identity, origin.identity),
        ):
            if value != origin_value:
                expected = shown(origin_value) if origin_value else "none"
                raise locations.refuse(
                    f"{job.key(replica, last)} = {shown(value)} must be that of the origin "
                    f"`{origin.name}`, {expected}",
                    job.key(replica, last),
                    key,
                )


def check_routing(job: Job, locations: KeyLocations) -> None:
    """Refuses endpoints, a route and rules that contradict each other."""
    _check_route(job, locations)
    if all(endpoint.fallback for endpoint in job.endpoints):
        raise locations.refuse(
            "endpoint.fallback = true on every endpoint: at least one must not be a fallback",
            *(job.key(endpoint, "fallback") for endpoint in job.endpoints),
        )
    if TASKS[job.task].value == "vector":
        _check_one_model(job, locations)
    _check_rules(job, locations)


def _check_route(job: Job, locations: KeyLocations) -> None:
    for endpoint in job.endpoints:
        weight = job.key(endpoint, "weight")
        if endpoint.weight is not None and job.route != "weighted":
            raise locations.refuse(
                f'{weight} = {endpoint.weight:g} is not used by route = "{job.route}"',
                weight,
                "route",
                hint='route = "weighted"',
            )
        is_unpriced = endpoint.price is None and not endpoint.facts.is_embedded
        if job.route == "cheapest" and is_unpriced:
            raise locations.refuse(
                f'route = "cheapest" needs the price of endpoint `{endpoint.name}`',
                "route",
                hint="price = { input = 0.02 } in [[endpoint]], USD per million tokens",
            )


def _check_one_model(job: Job, locations: KeyLocations) -> None:
    """Refuses endpoints whose vectors would not be in one space."""
    first = job.endpoints[0]
    for other in job.endpoints[1:]:
        if _model_key(job, first) == _model_key(job, other):
            continue
        models = " and ".join(_model_text(job, endpoint) for endpoint in (first, other))
        is_unnamed = any(endpoint.model is None for endpoint in (first, other))
        hint = "use one job per model"
        if is_unnamed and not (first.facts.models or other.facts.models):
            same = shown(first.model or other.model or "NAME")
            origin = f'replica_of = "{first.name}" in endpoint `{other.name}`'
            hint = f"model = {same} in both, or {origin}"
        raise locations.refuse(
            f"{models}: all vectors of an output must come from one model",
            job.key(other, "model"),
            job.key(first, "model"),
            hint=hint,
        )


def _model_key(job: Job, endpoint: EndpointSpec) -> tuple[str, ...]:
    """A key that is equal for two endpoints exactly if they serve the same model."""
    origin = job.origin(endpoint)
    if origin.facts.models:
        return (origin.kind,)
    if origin.identity:
        return (origin.model or "", origin.revision, origin.identity)
    return (origin.model, origin.revision) if origin.model else ("", origin.url, "")


def _model_text(job: Job, endpoint: EndpointSpec) -> str:
    if endpoint.facts.models:
        return f"endpoint `{endpoint.name}` is {endpoint.kind}"
    if endpoint.model is None and endpoint.identity is None:
        return f"endpoint `{endpoint.name}` does not name its model"
    revision = "" if endpoint.revision == "main" else f", revision {shown(endpoint.revision)}"
    identity = f", identity {shown(endpoint.identity)}" if endpoint.identity else ""
    return f"endpoint `{endpoint.name}` serves {shown(endpoint.model or '')}{revision}{identity}"


def _check_rules(job: Job, locations: KeyLocations) -> None:
    names = [endpoint.name for endpoint in job.endpoints]
    conditions = set()
    for at, rule in enumerate(job.rules, 1):
        prefix = "rule" if len(job.rules) == 1 else f"rule.{at}"
        key = f"{prefix}.endpoints"
        if not rule.endpoints:
            raise locations.wrong(key, "must name an endpoint: no endpoint could answer such a row")
        for name in rule.endpoints:
            if name not in names:
                raise locations.wrong(
                    key,
                    f"must name endpoints of the job ({', '.join(names[:10])}), "
                    f"got {shown(name)}{did_you_mean(name, names)}",
                )
        condition = (rule.column, type(rule.value), rule.value)
        if condition in conditions:
            raise locations.refuse(
                f"two [[rule]] have column = {shown(rule.column)}, equals = {shown(rule.value)}",
                f"{prefix}.equals",
                f"{prefix}.column",
            )
        conditions.add(condition)
