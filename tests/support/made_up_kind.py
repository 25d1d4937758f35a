"""A kind that textmill does not have: the `/generate` route of text-generation-inference."""

import json

from pipeline.errors import EndpointError
from pipeline.records import Answer, Call


def encode(endpoint, requests):
    (request,) = requests
    body = {"inputs": request.input, "parameters": endpoint.parameters}
    return Call(f"{endpoint.url}/generate", json.dumps(body).encode())


def decode(endpoint, count, status, headers, body):
    if status != 200:
        raise EndpointError("config", body.decode(), status=status)
    assert count == 1
    return [Answer(json.loads(body)["generated_text"], 2, 3, False, "made-up")]
