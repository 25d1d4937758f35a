"""Decides the reply to a call before anything is sent."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from jobs.mock.faults import ADDED, HARMLESS, UNCHARGED, Fault, Script
from jobs.mock.limits.gate import Gate, GateResult
from jobs.mock.protocols import answers, refusals, routes
from jobs.mock.protocols.calls import Call, Refused, Reply, Route, Service, Settings

ON_THE_WIRE = frozenset({"reset", "hang", "half_body", "half_chunked", "cut", "slow"})
LOADING_SECONDS = 20.0


class Plan(Struct, frozen=True):
    """The decision about one call.

    Units: `delay` in seconds, without the latency of inference.
    """

    reply: Reply
    delay: float = 0.0
    wire: Fault | None = None
    charged: Call | None = None
    """The call that is inferred and billed; None: nothing is."""
    spoiled: bool = False
    output_tokens: int = 0
    faults: tuple[str, ...] = ()
    gate_result: GateResult | None = None
    """Set if the call passed the gate, and must leave it."""


def authorized(key: str | None, path: str, headers: Mapping[str, str]) -> bool:
    """True if a call with these headers may pass."""
    if key is None:
        return True
    is_deployment = routes.is_deployment(path)
    header = headers.get("api-key" if is_deployment else "authorization", "")
    expected = key if is_deployment else f"Bearer {key}"
    return hmac.compare_digest(expected.encode(), header.encode("utf-8", "surrogateescape"))


def plan(
    found_route: tuple[Route, str] | None,
    *,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    key: str | None,
    script: Script,
    settings: Settings,
    gate: Gate | None = None,
) -> Plan:
    """The reply to a POST, and its faults.

    The gate comes after the check of the key and before everything else: a malformed call uses up
    the limit like any other, and a script counts only calls that the gate admitted.
    """
    if found_route is None:
        return Plan(refusals.not_found(path, "POST"))
    route, model = found_route
    if not authorized(key, path, headers):
        return Plan(refusals.refusal(route.service, 401))
    call: Call | None = None
    refused: Reply | None = None
    try:
        routes.check_size(route.service, len(body), settings)
        _check_type(route, headers.get("content-type", ""))
        call = route.read(body, model, settings)
        routes.check(call, settings)
    except Refused as error:
        refused = error.reply
    except (RecursionError, UnicodeError):
        refused = refusals.refusal(route.service, 400)
    if gate is None:
        return _decide(route, model, path, body, call, refused, script, settings)
    tokens, inputs = _call_size(call)
    result = gate.enter(route.service, call.model if call else model, tokens, inputs)
    if result.refused is not None:
        return Plan(result.refused, wire=Fault("reset") if result.reset else None)
    try:
        decided = _decide(route, model, path, body, call, refused, script, settings)
    except BaseException:
        gate.leave(result)
        raise
    # The headers of a fault come last: they replace those of the limit.
    headers_out = (*result.headers, *decided.reply.headers)
    reply = msgspec.structs.replace(decided.reply, headers=headers_out)
    return msgspec.structs.replace(decided, reply=reply, gate_result=result)


def _call_size(call: Call | None) -> tuple[int, int]:
    """Tokens and inputs that a limit counts: those of the inputs and the most that may be
    generated."""
    if call is None:
        return 0, 1
    inputs = len(call.inputs)
    return sum(call.tokens) + inputs * (call.max_tokens or 0), inputs


def _decide(
    route: Route,
    model: str,
    path: str,
    body: bytes,
    call: Call | None,
    refused: Reply | None,
    script: Script,
    settings: Settings,
) -> Plan:
    """The reply to an admitted call."""
    vectors = call is not None and call.task == "feature-extraction"
    inputs = call.inputs if call else ()
    # Faults model a gateway before the service: they apply to rejected bodies, too.
    faults = script.play(path, inputs, body, indexed=route.indexed, vectors=vectors)
    delay, extra, last = _separate(faults)
    kinds = tuple(fault.kind for fault in faults)
    if last is not None and last.kind in UNCHARGED:
        reply = fault_reply(last, route.service, call.model if call else model)
        wire = last if last.kind in ON_THE_WIRE else None
        return Plan(_add_headers(reply, extra), delay, wire, faults=kinds)
    if refused is not None or call is None:
        return Plan(_add_headers(refused or refusals.refusal(route.service, 400), extra), delay)
    values, answered = answers.answer(call, settings), call
    if last is not None:
        answered, values = answers.corrupt(last, call, values, settings)
    body_out = route.write(answered, values)
    return Plan(
        Reply(200, body_out, headers=_answer_headers(call) + extra),
        delay,
        last if last is not None and last.kind in ON_THE_WIRE else None,
        charged=call,
        spoiled=last is not None and last.kind not in HARMLESS,
        output_tokens=answers.output_tokens(answered, values),
        faults=kinds,
    )


def plan_lookup(
    path: str, headers: Mapping[str, str], key: str | None, script: Script, settings: Settings
) -> Plan:
    """The reply to a GET, and its faults."""
    service: Service = "openai" if path.startswith("/v1/") else settings.engine
    faults = script.play(path, (), b"", lookup=True)
    delay, extra, last = _separate(faults)
    kinds = tuple(fault.kind for fault in faults)
    document = routes.lookup(path, settings)
    is_public = document == "" or (path == "/info" and settings.engine == "tgi")
    if last is not None:
        wire = last if last.kind in ON_THE_WIRE else None
        reply = fault_reply(last, service, settings.models[0])
        return Plan(_add_headers(reply, extra), delay, wire, faults=kinds)
    if document is None:
        reply = refusals.not_found(path, "GET")
    elif not is_public and not authorized(key, path, headers):
        reply = refusals.refusal(service, 401)
    elif document == "":
        reply = Reply(200, content_type=refusals.TEXT)
    else:
        reply = refusals.json(200, document)
    return Plan(_add_headers(reply, extra), delay, faults=kinds)


def _separate(faults: list[Fault]) -> tuple[float, tuple[tuple[str, str], ...], Fault | None]:
    """The added seconds and headers, and the fault that ends the call."""
    delay = sum(fault.seconds or 0.0 for fault in faults if fault.kind == "delay")
    extra = tuple(pair for fault in faults for pair in fault.headers.items())
    return delay, extra, next((fault for fault in faults if fault.kind not in ADDED), None)


def _check_type(route: Route, content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if route.service != "openai" and kind != "application/json" and not kind.endswith("+json"):
        raise Refused(refusals.unsupported_type(route.service, content_type))


def _add_headers(reply: Reply, extra: tuple[tuple[str, str], ...]) -> Reply:
    return msgspec.structs.replace(reply, headers=reply.headers + extra) if extra else reply


def fault_reply(fault: Fault, service: Service, model: str) -> Reply:
    """The reply of a fault that replaces the call of the model."""
    match fault.kind:
        case "html":
            reply = refusals.page(fault.status or 200)
        case "garbage":
            reply = Reply(fault.status or 200, b'{"object":"list","data":[{"object":"embed')
        case "loading":
            seconds = LOADING_SECONDS if fault.seconds is None else fault.seconds
            reply = refusals.loading(model, fault.status or 503, seconds)
        case "insufficient_quota":
            reply = refusals.quota(service)
        case "redirect":
            location = (("Location", fault.location or ""),)
            reply = Reply(fault.status or 307, b"", refusals.TEXT, location)
        case _:
            reply = refusals.refusal(service, fault.status or 500, model)
    if fault.body is None or fault.kind == "redirect":
        return reply
    if isinstance(fault.body, bytes):
        return Reply(reply.status, fault.body, refusals.TEXT, reply.headers)
    if not isinstance(fault.body, str):
        return refusals.json(reply.status, fault.body, reply.headers)
    looks_json = fault.body.lstrip()[:1] in ("{", "[")
    kind = "application/json" if looks_json else refusals.TEXT
    body = fault.body.encode("utf-8", "surrogatepass")
    return Reply(reply.status, body, kind, reply.headers)


def _answer_headers(call: Call) -> tuple[tuple[str, str], ...]:
    """The headers of a successful answer; constant, so that replays are equal."""
    request_id = ("x-request-id", call.digests[0][:8].hex())
    if call.service == "openai":
        return (request_id, ("openai-version", "2020-10-01"), ("openai-processing-ms", "7"))
    characters = ("x-compute-characters", str(sum(map(len, call.inputs))))
    if call.service == "tei":
        tokens = ("x-compute-tokens", str(sum(call.tokens)))
        return (("x-compute-type", "cpu"), ("x-compute-time", "7"), characters, tokens)
    if call.service == "tgi":
        return (("x-compute-type", "cpu"), ("x-compute-time", "0.007"), characters)
    provider = ("x-inference-provider", "hf-inference")
    return (request_id, provider, ("x-compute-type", "cpu"), ("x-compute-time", "0.007"))
