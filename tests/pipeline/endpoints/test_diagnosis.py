"""A URL that answers, but not as its kind does: the line names the call, the hint the next step."""

import pytest

from jobs.mock import Fault, Mock
from pipeline.endpoints.diagnosis import bases_near
from pipeline.endpoints.http import HttpEndpoint
from pipeline.errors import EndpointError
from pipeline.records import Chunk, Endpoint, Request

pytestmark = pytest.mark.anyio
NO_OPENAI = ["404 path=/v1/models", "404 path=/v1/embeddings"]


async def refused(mock, path, kind="openai", model="mock-embedding", task="feature-extraction"):
    """The error of a first call below this path of the mock."""
    endpoint = Endpoint("m", kind, task, model, (kind,), url=f"{mock.url}{path}")
    async with HttpEndpoint(endpoint) as client:
        with pytest.raises(EndpointError) as raised:
            await client.answer([Request(b"", "The weir held.", 4, Chunk(0, 14, 4))])
    return raised.value


@pytest.mark.parametrize(("faults", "kind", "path", "called", "hint"), [
    ([], "openai", "", "/embeddings", 'endpoint.url = "URL/v1": there the server answers'),
    ([], "openai", "/v1/v1", "/v1/v1/embeddings", 'endpoint.url = "URL/v1": there the server answers'),
    ([], "openai", "/v1/embeddings", "/v1/embeddings/embeddings", 'endpoint.url = "URL/v1": there'),
    ([], "openai", "/api", "/api/embeddings", 'endpoint.url = "URL/v1": there the server answers'),
    ([], "tei", "/embed", "/embed/embed", 'endpoint.url = "URL": there the server answers'),
    ([], "tei", "/v1", "/v1/embed", 'endpoint.url = "URL": there the server answers'),
    (NO_OPENAI, "openai", "/v1", "/v1/embeddings",
     'it is text-embeddings-inference: kind = "tei", url = "URL"'),
    (["404 path=/info", "404 path=/embed"], "tei", "", "/embed",
     'it is a server with the OpenAI API: kind = "openai", url = "URL/v1"'),
    # Nothing that is known answers there.
    (["404", "404 path=*"], "openai", "", "/embeddings", "endpoint.url mostly ends with one /v1"),
    (["404", "404 path=*"], "tei", "", "/embed", "endpoint.url is the root of the server"),
    # The server is there, but this route is not.
    (["405"], "openai", "/v1", "/v1/embeddings", "the server has no /embeddings: does its model do"),
])  # fmt: skip
async def test_a_route_that_is_not_there_names_the_url_and_the_next_step(
    faults, kind, path, called, hint
):
    async with Mock(faults) as mock:
        error = await refused(mock, path, kind)
        assert error.kind == "config"
        assert str(error).endswith(f"(POST {mock.url}{called})")
        assert error.hint.startswith(hint.replace("URL", mock.url, 1))


async def test_a_server_of_another_kind_that_does_not_do_the_task_is_named():
    async with Mock(NO_OPENAI[:1]) as mock:
        error = await refused(mock, "", task="chat-completion")
    assert error.hint == f"{mock.url} is text-embeddings-inference, which does not serve chat-completion"


async def test_a_generating_server_is_not_taken_for_an_embedding_one():
    async with Mock(["404 path=/embed"], engine="tgi") as mock:
        error = await refused(mock, "", "tei")
    assert error.hint == f'it is a server with the OpenAI API: kind = "openai", url = "{mock.url}/v1"'


async def test_a_model_that_is_unknown_is_compared_with_those_of_the_server():
    async with Mock(["404"], models=["BAAI/bge-small-en", "gte-base"]) as mock:
        error = await refused(mock, "/v1", model="bge-small-en")
    assert error.hint == (
        "endpoint.model is not one of the server's models (did you mean `BAAI/bge-small-en`?): "
        "`BAAI/bge-small-en`, `gte-base`"
    )


async def test_a_web_page_is_a_wrong_url_where_the_service_is_found_elsewhere_and_else_may_pass():
    async with Mock(["html path=/embed", "404 path=/info"]) as mock:
        error = await refused(mock, "", "tei")
        assert (error.kind, error.hint) == ("config",
            f'it is a server with the OpenAI API: kind = "openai", url = "{mock.url}/v1"')  # fmt: skip
        assert str(error) == f"200 but not an answer: an HTML page (POST {mock.url}/embed)"
    async with Mock(["html", "404 path=/v1/models", "404 path=/info"]) as mock:
        error = await refused(mock, "/v1")
        assert error.kind == "invalid" and error.hint.startswith("endpoint.url mostly ends with")


@pytest.mark.parametrize(("location", "target", "hint"), [
    ("https://gpu.example/v1/embeddings?token=secret", "https://gpu.example/v1/embeddings",
     'endpoint.url = "https://gpu.example/v1", if you trust that server'),
    ("/login", "URL/login", "is it a login page, or another path of the service?"),
    ("https://me:pass@sso.example/in#x", "https://sso.example/in", "is it a login page, or another"),
])  # fmt: skip
async def test_a_redirect_names_its_target_without_secrets(location, target, hint):
    async with Mock([f"redirect location={location}"]) as mock:
        error = await refused(mock, "/v1")
        target = target.replace("URL", mock.url)
        assert str(error) == (
            f"the server redirects to {target}, which is never followed (POST {mock.url}/v1/embeddings)"
        )
        assert error.hint.startswith(hint)
        assert mock.bill.totals().lookups == 0


async def test_a_parameter_that_is_refused_is_no_wrong_url_and_nothing_is_asked():
    body = {"error": {"message": "Unrecognized request argument supplied: dims", "param": "dims"}}
    async with Mock([Fault("status", status=400, body=body)]) as mock:
        error = await refused(mock, "/v1")
        assert error.hint == "check `endpoint.url`, `endpoint.model` and `parameters`"
        assert mock.bill.totals().lookups == 0


async def test_calls_that_fail_together_ask_once_and_nothing_is_asked_after_an_answer():
    async with Mock(["404 after=1"]) as mock:
        endpoint = Endpoint("m", "openai", "feature-extraction", "mock-embedding", ("m",), url=f"{mock.url}/v1")
        request = Request(b"", "The weir held.", 4, Chunk(0, 14, 4))
        async with HttpEndpoint(endpoint) as client:
            await client.answer([request])
            with pytest.raises(EndpointError):
                await client.answer([request])
        assert mock.bill.totals().lookups == 0
    async with Mock([Fault("status", status=404, body="Not Found")]) as mock:
        import anyio

        async with HttpEndpoint(Endpoint("m", "openai", "feature-extraction", "m", ("m",),
                                         url=f"{mock.url}/v1")) as client:  # fmt: skip
            async def ask():
                with pytest.raises(EndpointError, match="POST"):
                    await client.answer([request])

            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(ask)
        assert mock.bill.totals().lookups == 1


def test_the_bases_near_a_url_lose_the_ends_of_its_path_and_may_get_v1():
    assert list(bases_near("http://h:1/openai/v1/embeddings")) == [
        "http://h:1/openai/v1/embeddings", "http://h:1/openai/v1/embeddings/v1", "http://h:1/openai/v1",
        "http://h:1/openai", "http://h:1", "http://h:1/v1",
    ]  # fmt: skip
