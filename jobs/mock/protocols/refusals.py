"""Error replies with the exact texts of each service.

A client decides about retries by status and body; invented bodies would test nothing.
Source: protocols collected August 2026; texts without a known original say so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jobs.mock.protocols.calls import Refused, Reply, Service

HTML = "text/html"
TEXT = "text/plain; charset=utf-8"

GATEWAY_PAGE = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} "
    "{reason}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
REASONS = {
    200: "Welcome",
    408: "Request Time-out",
    413: "Request Entity Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}

HUB: dict[int, str] = {
    # The toolkit answers every exception with 400, a model's own included.
    400: "The size of tensor a (612) must match the size of tensor b (512) at non-singleton"
    " dimension 1",
    401: "Invalid username or password.",
    402: "You have depleted your monthly included credits. Purchase pre-paid credits to continue"
    " using Inference Providers. Alternatively, subscribe to PRO to get 20x more included usage.",
    403: "This authentication method does not have sufficient permissions to call Inference"
    " Providers on behalf of user mock",
    404: "Model {model} does not exist",
    410: "https://api-inference.huggingface.co is no longer supported. Please use"
    " https://router.huggingface.co instead.",
    429: "Too many requests, please try again later.",  # the true text varies
    500: "unknown error",
    503: "Service temporarily unavailable, overload detected",
}

# status -> message, type, code
OPENAI: dict[int, tuple[str, str, str | None]] = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: (
        "Incorrect API key provided: sk-…. You can find your API key at"
        " https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    402: ("You have run out of credits.", "insufficient_quota", "insufficient_quota"),
    403: (
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    404: (
        "The model `{model}` does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    429: (
        "Rate limit reached for {model} in organization org-mock on requests per min (RPM): Limit"
        " 3000, Used 3000, Requested 1. Please try again in 20ms.",
        "requests",
        "rate_limit_exceeded",
    ),
    500: ("The server had an error while processing your request.", "server_error", None),
    503: (
        "That model is currently overloaded with other requests.",
        "server_error",
        "server_is_overloaded",
    ),
}
QUOTA = (
    "You exceeded your current quota, please check your plan and billing details.",
    "insufficient_quota",
    "insufficient_quota",
)

# status -> text, type in TEI, type in TGI
ENGINES: dict[int, tuple[str, str, str]] = {
    400: ("Input validation error: `inputs` cannot be empty", "Empty", "validation"),
    422: ("Input validation error: `inputs` is not valid", "Validation", "validation"),
    424: ("{prefix}: the model failed on this batch", "Backend", "generation"),
    429: ("Model is overloaded", "Overloaded", "overloaded"),
    500: ("Incomplete generation", "Backend", "incomplete_generation"),
    503: ("unhealthy", "Unhealthy", "healthcheck"),
}


def page(status: int) -> Reply:
    """A page of the gateway in front of the service."""
    reason = REASONS.get(status, "Error")
    return Reply(status, GATEWAY_PAGE.format(status=status, reason=reason).encode(), HTML)


def json(status: int, document: Any, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """A JSON document with a status."""
    return Reply(status, msgspec.json.encode(document), headers=headers)


def openai(
    status: int, message: str, kind: str, code: str | None, param: str | None = None
) -> Reply:
    """OpenAI's error object."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json(status, {"error": error})


def engine(service: Service, status: int, text: str, kind: str) -> Reply:
    """TEI's and TGI's error object; `kind` is TEI's name."""
    if service == "tgi":
        kind = {"Empty": "validation", "Validation": "validation"}.get(kind, kind)
    return json(status, {"error": text, "error_type": kind})


def refusal(service: Service, status: int, model: str = "") -> Reply:
    """The default reply of the service with this status."""
    if status in (502, 504, 408):
        return page(status)
    if service in ("tei", "tgi"):
        if status == 401:
            return Reply(401, content_type=TEXT)
        if status == 413:
            buffered = b"Failed to buffer the request body: length limit exceeded"
            return Reply(413, buffered, TEXT)
        if status in ENGINES:
            text, tei, tgi = ENGINES[status]
            prefix = "Backend error" if service == "tei" else "Request failed during generation"
            kind = tei if service == "tei" else tgi
            return json(status, {"error": text.format(prefix=prefix), "error_type": kind})
        return page(status)
    if service == "openai":
        message, kind, code = OPENAI.get(status, (f"Error {status}.", "server_error", None))
        if 400 <= status < 500 and status not in OPENAI:
            kind = "invalid_request_error"
        return openai(status, message.format(model=model), kind, code)
    if status in (422, 424):  # what runs behind the router then is TEI
        return refusal("tei", status)
    if status == 413:
        return page(413)
    message = HUB.get(status, f"Error {status}").format(model=model)
    headers: tuple[tuple[str, str], ...] = ()
    if status == 401:
        realm = 'Bearer realm="Authentication required", charset="UTF-8"'
        headers = (("WWW-Authenticate", realm), ("X-Error-Message", message))
    return json(status, {"error": message}, headers)


def loading(model: str, status: int, seconds: float) -> Reply:
    """A cold model; some report this body with status 200."""
    text = f"Model {model} is currently loading"
    return json(status, {"error": text, "estimated_time": float(seconds)})


def quota(service: Service) -> Reply:
    """A 429 that waiting does not cure."""
    message, kind, code = QUOTA
    return openai(429, message, kind, code)


def rate_limited(
    service: Service,
    model: str,
    what: str,
    limit: float,
    used: float,
    want: float,
    wait: str | None,
) -> Reply:
    """A rate is exceeded; `wait` is the time as OpenAI prints it, None: waiting does not help.

    Units: `what` is requests or tokens; the numbers are per minute, as at OpenAI.
    """
    if service != "openai":
        return refusal(service, 429, model)
    unit = "TPM" if what == "tokens" else "RPM"
    on = f"for {model} in organization org-mock on {what} per min ({unit}): Limit {limit:.0f}"
    if wait is None:
        text = f"Request too large {on}, Requested {want:.0f}."
    else:
        text = f"Rate limit reached {on}, Used {used:.0f}, Requested {want:.0f}."
        text += f" Please try again in {wait}."
    return openai(429, text, what, "rate_limit_exceeded")


def crowded(service: Service) -> Reply:
    """All slots are taken; no service names a wait."""
    if service != "openai":
        return refusal(service, 429)
    text = "Too many concurrent requests."  # servers behind this protocol differ
    return openai(429, text, "requests", "rate_limit_exceeded")


def not_found(path: str, method: str) -> Reply:
    """No such route."""
    if path.startswith("/v1/"):
        text = f"Invalid URL ({method} {path})"
        return openai(404, text, "invalid_request_error", None)
    return Reply(404, b"Not Found", TEXT)


def not_allowed() -> Reply:
    """The path exists, but not for this method."""
    return Reply(405, b"Method Not Allowed", TEXT)


def malformed(service: Service, error: msgspec.DecodeError) -> Refused:
    """The body is no JSON, or not the shape that the route takes."""
    shape = isinstance(error, msgspec.ValidationError)
    if service == "openai":
        text = str(error) if shape else "We could not parse the JSON body of your request."
        return Refused(openai(400, text, "invalid_request_error", None))
    if service == "hf":
        text = "Body needs to provide a inputs key, received: …" if shape else str(error)
        return Refused(json(400, {"error": text}))
    if shape:
        problem = str(error).replace("Object missing required field", "missing field")
        text = f"Failed to deserialize the JSON body into the target type: {problem} at line 1"
        return Refused(Reply(422, text.encode(), TEXT))
    return Refused(Reply(400, f"Failed to parse the request body as JSON: {error}".encode(), TEXT))


def unsupported_type(service: Service, content_type: str) -> Reply:
    """The content type is not JSON."""
    if service == "hf":
        text = f'\n                Content type "{content_type}" not supported.'
        return json(400, {"error": text})
    return Reply(415, b"Expected request with `Content-Type: application/json`", TEXT)


def batch_too_large(service: Service, size: int, limit: int) -> Refused:
    """More inputs in a call than the service accepts."""
    if service == "openai":
        text = (
            f"Invalid 'input': array too long. Expected an array with maximum length {limit}, but"
            f" got an array with length {size} instead."
        )
        kind = "invalid_request_error"
        return Refused(openai(400, text, kind, "array_above_max_length", "input"))
    text = f"batch size {size} > maximum allowed batch size {limit}"
    return Refused(engine(service, 422, text, "Validation"))


def input_too_long(service: Service, task: str, size: int, limit: int) -> Refused:
    """One input with more tokens than the model reads."""
    if service == "openai":
        chat = task == "chat-completion"
        phrase = "your messages resulted in" if chat else "you requested"
        text = (
            f"This model's maximum context length is {limit} tokens. However, {phrase}"
            f" {size} tokens. Please reduce the length."
        )
        code = "context_length_exceeded" if chat else None
        param = "messages" if chat else None
        return Refused(openai(400, text, "invalid_request_error", code, param))
    text = f"Input validation error: `inputs` must have less than {limit} tokens. Given: {size}"
    return Refused(engine(service, 422, text, "Validation"))


def too_many_tokens(size: int, limit: int) -> Refused:
    """OpenAI's bound on the tokens of one embeddings call."""
    text = f"Requested {size} tokens, max {limit} tokens per request"
    return Refused(openai(400, text, "max_tokens_per_request", "max_tokens_per_request"))


def empty_input(service: Service, index: int | None) -> Refused:
    """An empty text, or no text at all (`index` None)."""
    if service == "openai":
        text = "Invalid 'input': input cannot be an empty string."
        if index is not None:
            text = f"Invalid 'input[{index}]': input cannot be an empty string."
        return Refused(openai(400, text, "invalid_request_error", None, "input"))
    prefix = "" if index is None else "Input validation error: "
    status = 422 if service == "tgi" else 400
    return Refused(engine(service, status, f"{prefix}`inputs` cannot be empty", "Empty"))
