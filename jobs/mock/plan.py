"""What the server does with a call, decided before anything is sent."""

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
    """One call, decided.

    Units: `delay` in seconds, the latency of inference not included.
    """

    reply: Reply
    delay: float = 0.0
    wire: Fault | None = None
    charged: Call | None = None
    """What is inferred and billed; None: nothing."""
    spoiled: bool = False
    output_tokens: int = 0
    faults: tuple[str, ...] = ()
    passage: GateResult | None = None
    """It went through the gate, and must leave it."""


def authorized(key: str | None, header: str) -> bool:
    """Whether a call with this Authorization header may pass."""
    if key is None:
        return True
    expected = f"Bearer {key}".encode()
    return hmac.compare_digest(expected, header.encode("utf-8", "surrogateescape"))


def plan(
    found: tuple[Route, str] | None,
    *,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    key: str | None,
    script: Script,
    settings: Settings,
    gate: Gate | None = None,
) -> Plan:
    """The reply to a POST, and what goes wrong with it.

    The gate stands behind the key and before everything else: a call that cannot be read uses up
    the limit like any other, and a script counts only calls that were let in.
    """
    if found is None:
        return Plan(refusals.not_found(path, "POST"))
    route, model = found
    if not authorized(key, headers.get("authorization", "")):
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
        return _decided(route, model, path, body, call, refused, script, settings)
    tokens, inputs = _size(call)
    passage = gate.enter(route.service, call.model if call else model, tokens, inputs)
    if passage.refused is not None:
        return Plan(passage.refused, wire=Fault("reset") if passage.reset else None)
    try:
        decided = _decided(route, model, path, body, call, refused, script, settings)
    except BaseException:
        gate.leave(passage)
        raise
    # A fault's own header goes last: it replaces what the limit tells.
    told = (*passage.headers, *decided.reply.headers)
    reply = msgspec.structs.replace(decided.reply, headers=told)
    return msgspec.structs.replace(decided, reply=reply, passage=passage)


def _size(call: Call | None) -> tuple[int, int]:
    """Tokens and inputs that a limit counts: what goes in, and the most that may come out."""
    if call is None:
        return 0, 1
    inputs = len(call.inputs)
    return sum(call.tokens) + inputs * (call.max_tokens or 0), inputs


def _decided(
    route: Route,
    model: str,
    path: str,
    body: bytes,
    call: Call | None,
    refused: Reply | None,
    script: Script,
    settings: Settings,
) -> Plan:
    """The reply to a call that was let in."""
    vectors = call is not None and call.task == "feature-extraction"
    inputs = call.inputs if call else ()
    # A gateway stands before the service: a fault comes also where the body is refused.
    played = script.play(path, inputs, body, indexed=route.indexed, vectors=vectors)
    delay, extra, last = _apart(played)
    kinds = tuple(one.kind for one in played)
    if last is not None and last.kind in UNCHARGED:
        reply = instead(last, route.service, call.model if call else model)
        wire = last if last.kind in ON_THE_WIRE else None
        return Plan(_with(reply, extra), delay, wire, faults=kinds)
    if refused is not None or call is None:
        return Plan(_with(refused or refusals.refusal(route.service, 400), extra), delay)
    values, told = answers.answer(call, settings), call
    if last is not None:
        told, values = answers.corrupt(last, call, values, settings)
    written = route.write(told, values)
    return Plan(
        Reply(200, written, headers=_answer_headers(call) + extra),
        delay,
        last if last is not None and last.kind in ON_THE_WIRE else None,
        charged=call,
        spoiled=last is not None and last.kind not in HARMLESS,
        output_tokens=answers.output_tokens(told, values),
        faults=kinds,
    )


def plan_lookup(
    path: str, headers: Mapping[str, str], key: str | None, script: Script, settings: Settings
) -> Plan:
    """The reply to a GET, and what goes wrong with it."""
    service: Service = "openai" if path.startswith("/v1/") else settings.engine
    played = script.play(path, (), b"", lookup=True)
    delay, extra, last = _apart(played)
    kinds = tuple(one.kind for one in played)
    found = routes.lookup(path, settings)
    open_to_all = found == "" or (path == "/info" and settings.engine == "tgi")
    if last is not None:
        wire = last if last.kind in ON_THE_WIRE else None
        reply = instead(last, service, settings.models[0])
        return Plan(_with(reply, extra), delay, wire, faults=kinds)
    if found is None:
        reply = refusals.not_found(path, "GET")
    elif not open_to_all and not authorized(key, headers.get("authorization", "")):
        reply = refusals.refusal(service, 401)
    elif found == "":
        reply = Reply(200, content_type=refusals.TEXT)
    else:
        reply = refusals.json(200, found)
    return Plan(_with(reply, extra), delay, faults=kinds)


def _apart(played: list[Fault]) -> tuple[float, tuple[tuple[str, str], ...], Fault | None]:
    """The seconds and headers that are added, and the fault that ends the call."""
    delay = sum(one.seconds or 0.0 for one in played if one.kind == "delay")
    extra = tuple(pair for one in played for pair in one.headers.items())
    return delay, extra, next((one for one in played if one.kind not in ADDED), None)


def _check_type(route: Route, content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if route.service != "openai" and kind != "application/json" and not kind.endswith("+json"):
        raise Refused(refusals.unsupported_type(route.service, content_type))


def _with(reply: Reply, extra: tuple[tuple[str, str], ...]) -> Reply:
    return msgspec.structs.replace(reply, headers=reply.headers + extra) if extra else reply


def instead(fault: Fault, service: Service, model: str) -> Reply:
    """The reply of a fault that lets nothing through to the model."""
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
    if not isinstance(fault.body, str):
        return refusals.json(reply.status, fault.body, reply.headers)
    looks_json = fault.body.lstrip()[:1] in ("{", "[")
    kind = "application/json" if looks_json else refusals.TEXT
    body = fault.body.encode("utf-8", "surrogatepass")
    return Reply(reply.status, body, kind, reply.headers)


def _answer_headers(call: Call) -> tuple[tuple[str, str], ...]:
    """What the service tells about a well answer; stable, so that replays are equal."""
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
