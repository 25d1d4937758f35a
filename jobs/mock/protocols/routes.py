"""Which protocol a path belongs to, and the limits that are checked before anything is inferred."""

from __future__ import annotations

import re
from typing import Any

from jobs.mock.protocols import engines, hub, openai, refusals
from jobs.mock.protocols.calls import Call, Refused, Route, Service, Settings

OPENAI_BATCH_LIMIT = 2048
ENGINE_BODY_BYTES = 2_000_000
OTHER_BODY_BYTES = 256 * 1024 * 1024

_FIXED: dict[str, Route] = {
    "/v1/embeddings": openai.EMBEDDINGS,
    "/v1/chat/completions": openai.CHAT,
    "/embed": engines.EMBED,
    "/generate": engines.GENERATE,
}
_ROOT: dict[str, Route] = {"tei": engines.EMBED, "tgi": engines.GENERATE_ROOT}
_HUB: dict[str, Route] = {
    "": hub.TASK,
    "/pipeline/feature-extraction": hub.FEATURE,
    "/pipeline/sentence-similarity": hub.SIMILARITY,
    "/v1/chat/completions": openai.HUB_CHAT,
}
_HUB_PATH = re.compile(r"/hf-inference/models/([^/]+/[^/]+?)(/pipeline/[^/]+|/v1/.+)?")
# A closed list: an open one would take `/v1/v1/embeddings`, the commonest wrong base URL.
_PROVIDER_PATH = re.compile(
    r"/(?:cerebras|cohere/compatibility|deepinfra|featherless-ai|fireworks-ai/inference|groq|"
    r"novita|nscale|scaleway|together)(?:/v3|/openai)?(/v1(?:/openai)?/.+)"
)


def find(path: str, settings: Settings) -> tuple[Route, str] | None:
    """The route of a POST and the model in its path; None where nothing is served."""
    route = _FIXED.get(path)
    if route is not None:
        return route, ""
    if path == "/":
        return _ROOT[settings.engine], ""
    found = _HUB_PATH.fullmatch(path)
    if found:
        route = _HUB.get(found[2] or "")
        return (route, found[1]) if route else None
    found = _PROVIDER_PATH.fullmatch(path)
    if found:
        route = _FIXED.get(found[1].replace("/openai", ""))
        return (route, "") if route else None
    return None


def lookup(path: str, settings: Settings) -> Any:
    """What a GET brings: a JSON document, "" for an empty 200, None where nothing is served."""
    if path in ("/health", "/ping", "/"):
        return ""
    if path == "/info":
        return engines.info(settings)
    if path == "/v1/models":
        return openai.models(settings)
    if path.startswith("/v1/models/"):
        name = path.removeprefix("/v1/models/")
        return next((one for one in openai.models(settings)["data"] if one["id"] == name), None)
    return None


def check_size(service: Service, size: int, settings: Settings) -> None:
    """Raises Refused for a body with more bytes than the service takes."""
    default = ENGINE_BODY_BYTES if service in ("tei", "tgi") else OTHER_BODY_BYTES
    limit = default if settings.max_body_bytes is None else settings.max_body_bytes
    if size > limit:
        raise Refused(refusals.refusal(service, 413))


def check(call: Call, settings: Settings) -> None:
    """Raises Refused for too many inputs, a dimension that there is not, or too long an input."""
    defaults = {"tei": engines.TEI_BATCH_LIMIT, "openai": OPENAI_BATCH_LIMIT}
    limit = settings.batch_limit or defaults.get(call.service)
    if limit is not None and len(call.inputs) > limit:
        raise refusals.batch_too_large(call.service, len(call.inputs), limit)
    if call.dimension is not None and not 1 <= call.dimension <= settings.dimension:
        text = "`dimensions` should be smaller than the maximum embedding dimension."
        raise Refused(refusals.engine(call.service, 422, text, "Validation"))
    most = settings.max_input_tokens
    if most is not None and not call.truncate and max(call.tokens) > most:
        raise refusals.input_too_long(call.service, call.task, max(call.tokens), most)
