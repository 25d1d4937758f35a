"""Maps paths to protocols, and checks limits before inference."""

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
_DEPLOYMENT_PATH = re.compile(r"/openai/deployments/[^/]+(/embeddings|/chat/completions)")


def is_deployment(path: str) -> bool:
    """True for a path of Azure OpenAI, whose key is in a header of its own."""
    return _DEPLOYMENT_PATH.fullmatch(path) is not None


def find(path: str, settings: Settings, version: str = "") -> tuple[Route, str] | None:
    """The route of a POST and the model in its path; None for an unknown path, and for a deployment
    without an `api-version`."""
    match = _DEPLOYMENT_PATH.fullmatch(path)
    if match and version:
        return _FIXED[f"/v1{match[1]}"], ""
    route = _FIXED.get(path)
    if route is not None:
        return route, ""
    if path == "/":
        return _ROOT[settings.engine], ""
    match = _HUB_PATH.fullmatch(path)
    if match:
        route = _HUB.get(match[2] or "")
        return (route, match[1]) if route else None
    match = _PROVIDER_PATH.fullmatch(path)
    if match:
        route = _FIXED.get(match[1].replace("/openai", ""))
        return (route, "") if route else None
    return None


def lookup(path: str, settings: Settings) -> Any:
    """The reply to a GET: a JSON document, "" for an empty 200, None for an unknown path."""
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
    """Raises Refused for a body larger than the limit of the service."""
    default = ENGINE_BODY_BYTES if service in ("tei", "tgi") else OTHER_BODY_BYTES
    limit = default if settings.max_body_bytes is None else settings.max_body_bytes
    if size > limit:
        raise Refused(refusals.refusal(service, 413))


def check(call: Call, settings: Settings) -> None:
    """Raises Refused for too many inputs, an invalid dimension, or an input that is too long."""
    defaults = {"tei": engines.TEI_BATCH_LIMIT, "openai": OPENAI_BATCH_LIMIT}
    limit = settings.batch_limit or defaults.get(call.service)
    if limit is not None and len(call.inputs) > limit:
        raise refusals.batch_too_large(call.service, len(call.inputs), limit)
    if call.dimension is not None and not 1 <= call.dimension <= settings.dimension:
        text = "`dimensions` should be smaller than the maximum embedding dimension."
        raise Refused(refusals.engine(call.service, 422, text, "Validation"))
    max_tokens = settings.max_input_tokens
    if max_tokens is not None and not call.truncate and max(call.tokens) > max_tokens:
        raise refusals.input_too_long(call.service, call.task, max(call.tokens), max_tokens)
