import base64
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.refusals import refusal, requested_wait
from pipeline.endpoints.responses import vector_answers
from pipeline.errors import EndpointError
from pipeline.records import Answer, Chunk, Endpoint, Failure, Request
from pipeline.text import printable


def body(value):
    return msgspec.json.encode(value)


REFUSALS = [
    (401, body({"error": "Invalid username or password."}), "auth"),
    (401, b"", "auth"),
    (402, body({"error": "You have depleted your monthly included credits."}), "quota"),
    (
        403,
        body({"error": "This authentication method does not have sufficient permissions"}),
        "auth",
    ),
    (
        429,
        body(
            {
                "error": {
                    "message": "You exceeded your current quota",
                    "type": "insufficient_quota",
                    "code": "insufficient_quota",
                }
            }
        ),
        "quota",
    ),
    (
        429,
        body(
            {
                "error": {
                    "message": "Rate limit reached for gpt-4.1 on tokens per min",
                    "type": "tokens",
                    "code": "rate_limit_exceeded",
                }
            }
        ),
        "rate",
    ),
    (429, body({"error": "Model is overloaded", "error_type": "Overloaded"}), "rate"),
    (
        429,
        body(
            {"error": {"message": "Request too large for gpt-4.1", "code": "rate_limit_exceeded"}}
        ),
        "too_long",
    ),
    (503, body({"error": "Model gpt2 is currently loading", "estimated_time": 20.0}), "loading"),
    (500, body({"error": "Model gpt2 is currently loading", "estimated_time": 20.0}), "loading"),
    (503, b"<html><title>503 Service Temporarily Unavailable</title></html>", "overload"),
    (503, body({"error": "unhealthy", "error_type": "Unhealthy"}), "overload"),
    (502, b"<html><body>Bad Gateway</body></html>", "transient"),
    (504, b"", "transient"),
    (500, body({"error": "unknown error"}), "transient"),
    (408, b"", "transient"),
    (
        400,
        body(
            {
                "object": "error",
                "message": "This model's maximum context length is 512 tokens. "
                "However, you requested 600",
                "type": "BadRequestError",
                "code": 400,
            }
        ),
        "too_long",
    ),
    (400, body({"error": {"message": "too many", "code": "context_length_exceeded"}}), "too_long"),
    (
        422,
        body(
            {
                "error": "Input validation error: `inputs` must have less than 512 tokens. "
                "Given: 600",
                "error_type": "Validation",
            }
        ),
        "too_long",
    ),
    (
        422,
        body(
            {"error": "batch size 40 > maximum allowed batch size 32", "error_type": "Validation"}
        ),
        "too_long",
    ),
    (413, b"Failed to buffer the request body: length limit exceeded", "too_long"),
    (400, body({"error": ["Error in `inputs.context`: field required"]}), "poison"),
    (400, body({"error": "CUDA error: device-side assert"}), "poison"),
    (
        422,
        body({"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required"}]}),
        "poison",
    ),
    (424, body({"error": "Backend error: x", "error_type": "Backend"}), "poison"),
    (
        404,
        body(
            {
                "error": {
                    "message": "The model `x` does not exist.",
                    "type": "NotFoundError",
                    "code": 404,
                }
            }
        ),
        "config",
    ),
    (404, body({"error": {"message": "no", "code": "model_not_found"}}), "config"),
    (400, body({"error": "Model not supported by provider hf-inference"}), "config"),
    (
        410,
        body({"error": "https://api-inference.huggingface.co is no longer supported."}),
        "config",
    ),
    (422, b"Failed to deserialize the JSON body into the target type: missing field", "config"),
    (404, b"Not Found", "config"),
    (301, b"", "config"),
    (307, body({"error": "moved"}), "config"),
    (529, b"", "overload"),
]


@pytest.mark.parametrize(("status", "raw", "kind"), REFUSALS)
def test_the_class_of_an_error_comes_from_its_body(status, raw, kind):
    assert refusal(status, {}, raw).kind == kind


@given(st.integers(100, 599).filter(lambda s: s != 200), st.binary(max_size=200))
def test_any_body_gives_an_error_and_never_an_exception(status, raw):
    error = refusal(status, {}, raw)
    assert isinstance(error, EndpointError)
    assert str(error) == printable(str(error), 1_000)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "message", "detail", "code", "type", "estimated_time", "msg"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=10,
    )
)
def test_any_json_gives_an_error_and_never_an_exception(value):
    try:
        raw = body(value)
    except UnicodeEncodeError:
        return
    assert isinstance(refusal(400, {}, raw), EndpointError)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, -5.0),
        ({"retry-after": "1e9"}, 1e9),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "20", "retry-after": "7"}, 0.02),
        (
            {
                "retry-after": "Fri, 20 Nov 2026 10:00:30 GMT",
                "date": "Fri, 20 Nov 2026 10:00:00 GMT",
            },
            30.0,
        ),
        (
            {
                "retry-after": "Fri, 20 Nov 2026 09:00:00 GMT",
                "date": "Fri, 20 Nov 2026 10:00:00 GMT",
            },
            -3600.0,
        ),
    ],
)
def test_the_wait_that_a_server_requests(headers, seconds):
    assert requested_wait(headers) == seconds


def test_good_vectors_are_float32_bytes():
    answers = vector_answers([[1.0, 2.0], [3.0, 4.0]], 2, input_tokens=10, model="m")
    assert answers == [
        Answer(np.array([1, 2], "<f4").tobytes(), 5, 0, False, "m"),
        Answer(np.array([3, 4], "<f4").tobytes(), 5, 0, False, "m"),
    ]


@pytest.mark.parametrize("bad", [[None, 1.0], [math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
def test_a_bad_vector_is_that_requests_failure_and_no_neighbours(bad):
    answers = vector_answers([[1.0, 2.0], bad, [3.0, 4.0]], 3)
    assert [type(answer) for answer in answers] == [Answer, Failure, Answer]


def test_a_vector_of_another_length_than_most_is_that_requests_failure():
    answers = vector_answers([[1.0, 2.0], [3.0], [5.0, 6.0]], 3)
    assert [type(answer) for answer in answers] == [Answer, Failure, Answer]
    assert answers[2].value == np.array([5, 6], "<f4").tobytes()


@pytest.mark.parametrize(
    "vectors",
    [
        [],
        [[1.0]],
        [[1.0]] * 3,
        [[1.0], [1.0, 2.0]],
        [[], []],
        [["a"], ["b"]],
        [b"abc", b"abcd"],
        [b"", b""],
    ],
)
def test_a_wrong_count_or_shape_rejects_the_whole_call(vectors):
    with pytest.raises(EndpointError) as caught:
        vector_answers(vectors, 2)
    assert caught.value.kind == "invalid"


def endpoint(kind, task="feature-extraction", **parameters):
    return Endpoint(
        name="e",
        kind=kind,
        task=task,
        model="org/m",
        identity=(kind, "org/m"),
        url="http://127.0.0.1:8080",
        parameters=parameters,
    )


def requests(*inputs):
    return [Request(b"k", text, 1, Chunk(0, len(text), 1)) for text in inputs]


@pytest.mark.parametrize(
    ("end", "inputs", "url", "sent"),
    [
        (
            endpoint("openai", dimensions=8),
            ["a", "b"],
            "/embeddings",
            {"model": "org/m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
        ),
        (
            endpoint("openai", "chat-completion", temperature=0),
            ["hi"],
            "/chat/completions",
            {"model": "org/m", "messages": [{"role": "user", "content": "hi"}], "stream": False, "temperature": 0},
        ),
        (
            endpoint("hf", normalize=True),
            ["a"],
            "/hf-inference/models/org/m/pipeline/feature-extraction",
            {"inputs": ["a"], "normalize": True},
        ),
        (
            endpoint("hf", "summarization", max_length=60),
            ["a"],
            "/hf-inference/models/org/m",
            {"inputs": "a", "parameters": {"max_length": 60}},
        ),
        (
            endpoint("hf", "summarization"),
            ["a", "b"],
            "/hf-inference/models/org/m",
            {"inputs": ["a", "b"]},
        ),
        (
            endpoint("hf", "chat-completion"),
            ["hi"],
            "/hf-inference/models/org/m/v1/chat/completions",
            {"model": "org/m", "messages": [{"role": "user", "content": "hi"}], "stream": False},
        ),
        (
            endpoint("tei", truncate=False),
            ["a", "b"],
            "/embed",
            {"inputs": ["a", "b"], "truncate": False},
        ),
    ],
)
def test_what_is_sent(end, inputs, url, sent):
    call = KINDS[end.kind].protocol().encode(end, requests(*inputs))
    assert call.url == "http://127.0.0.1:8080" + url
    assert msgspec.json.decode(call.body) == sent


def decode(kind, count, raw, task="feature-extraction", status=200):
    return KINDS[kind].protocol().decode(endpoint(kind, task), count, status, {}, raw)


ONE, TWO = (np.array(v, "<f4").tobytes() for v in ([1, 0], [0, 1]))


@pytest.mark.parametrize("as_base64", [True, False])
def test_openai_vectors_are_mapped_by_index(as_base64):
    def shape(raw):
        return base64.b64encode(raw).decode() if as_base64 else np.frombuffer(raw, "<f4").tolist()

    reply = {
        "data": [{"index": 1, "embedding": shape(TWO)}, {"index": 0, "embedding": shape(ONE)}],
        "model": "m",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    assert decode("openai", 2, body(reply)) == [
        Answer(ONE, 4, 0, False, "m"),
        Answer(TWO, 4, 0, False, "m"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": -1, "embedding": [1.0]}],
        [{"index": n, "embedding": [1.0]} for n in (0, 1, 2)],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": "AACAPw=="}],
        [{"index": 0, "embedding": [None]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": "not base64!"}, {"index": 1, "embedding": "AACAPw=="}],
    ],
)
def test_openai_vectors_that_do_not_fit_reject_the_call(data):
    with pytest.raises(EndpointError) as caught:
        decode("openai", 2, body({"data": data}))
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize("kind", ["openai", "hf", "tei"])
@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>hi</html>", b"{", b"null", b'"x"', b"[1", b"[]", b'{"error":"x"}', b"[" * 5000],
)
def test_a_200_that_is_no_answer_is_never_a_result(kind, raw):
    with pytest.raises(EndpointError) as caught:
        decode(kind, 2, raw)
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    ("raw", "count"),
    [([[1, 0], [0, 1]], 2), ([1, 0], 1), ([[1, 0]], 1), ({"embeddings": [[1, 0], [0, 1]]}, 2)],
)
def test_feature_rows_by_nesting_depth(raw, count):
    answers = decode("hf", count, body(raw))
    assert [answer.value for answer in answers] == [ONE, TWO][:count]


def test_vectors_per_token_are_a_configuration_error():
    with pytest.raises(EndpointError, match="no pooling layer") as caught:
        decode("hf", 1, body([[[1.0, 0.0], [0.0, 1.0]]]))
    assert caught.value.kind == "config"


def test_a_loading_body_with_status_200_is_loading():
    with pytest.raises(EndpointError) as caught:
        decode("hf", 1, body({"error": "Model x is currently loading", "estimated_time": 9}))
    assert (caught.value.kind, caught.value.retry_after) == ("loading", 9)


def test_summaries_in_order():
    reply = [{"summary_text": "one"}, {"summary_text": "two"}]
    answers = decode("hf", 2, body(reply), "summarization")
    assert [answer.value for answer in answers] == ["one", "two"]


def chat(**changed):
    message = {"role": "assistant", "content": "yes"} | changed.pop("message", {})
    return body(
        {
            "model": "gpt",
            "choices": [{"message": message, "finish_reason": "stop"} | changed],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        }
    )


def test_chat_answers():
    assert decode("openai", 1, chat(), "chat-completion") == [Answer("yes", 9, 1, False, "gpt")]
    (cut,) = decode("openai", 1, chat(finish_reason="length"), "chat-completion")
    assert cut.truncated


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (chat(message={"content": ""}), "invalid"),
        (chat(message={"content": None}), "invalid"),
        (chat(message={"content": " \n"}), "invalid"),
        (chat(message={"content": None, "refusal": "I cannot"}), "poison"),
        (chat(finish_reason="content_filter"), "poison"),
        (body({"choices": []}), "invalid"),
    ],
)
def test_a_chat_without_a_text_is_a_failure(reply, kind):
    (failure,) = decode("openai", 1, reply, "chat-completion")
    assert isinstance(failure, Failure)
    assert failure.kind == kind


def spoiled(**fields):
    return body({"model": "gpt", "choices": [{"message": {"content": "half"}, "finish_reason": "stop"}]} | fields)


@pytest.mark.parametrize(("reply", "kind"), [
    (chat(finish_reason="error", error={"code": 502, "message": "upstream went away"}), "transient"),
    (chat(error={"code": 429, "message": "slow down"}), "rate"),
    (chat(error={"code": 503}), "overload"),
    (chat(finish_reason="error"), "invalid"),
    (chat(finish_reason="abort"), "invalid"),
    (chat(native_finish_reason="MALFORMED_RESPONSE"), "invalid"),
    (chat(native_finish_reason="SAFETY"), "poison"),
    (chat(finish_reason="sensitive"), "poison"),
    (chat(finish_reason="content_filter", message={"content": None}), "poison"),
    (spoiled(error={"message": "model x not found"}), "config"),
    (spoiled(error="backend lost"), "invalid"),
    (spoiled(errors=[{"message": "too many requests"}]), "rate"),
    (spoiled(status="failed"), "invalid"),
    (spoiled(success=False), "invalid"),
    (spoiled(base_resp={"status_code": 1008, "status_msg": "insufficient balance"}), "quota"),
    (body({"base_resp": {"status_code": 1039, "status_msg": "tokens exceed the limit"}, "choices": None}), "too_long"),
    (body({"code": 1302, "msg": "请求过于频繁", "data": None}), "rate"),
    (body({"code": 500, "message": "x", "success": False}), "transient"),
    (body([{"error": "Model x is currently loading"}]), "loading"),
    (body({"detail": "no such model"}), "config"),
    (body({"message": "prompt is too long: 900 tokens > 512"}), "too_long"),
    (b"upstream overloaded", "overload"),
])  # fmt: skip
def test_a_200_that_says_it_is_no_answer_is_an_error_of_its_class(reply, kind):
    try:
        (failure,) = decode("openai", 1, reply, "chat-completion")
    except EndpointError as error:
        failure = error
    assert not isinstance(failure, Answer)
    assert failure.kind == kind


@pytest.mark.parametrize("fields", [
    {"error": None}, {"error": ""}, {"error": {}}, {"error": {"code": 0, "message": "success"}},
    {"errors": []}, {"status": "completed"}, {"success": True}, {"code": 200, "message": "OK"},
    {"base_resp": {"status_code": 0, "status_msg": ""}}, {"detail": "served by node 3"},
])  # fmt: skip
def test_a_field_that_says_nothing_is_wrong_leaves_the_answer_alone(fields):
    assert decode("openai", 1, spoiled(**fields), "chat-completion") == [Answer("half", 0, 0, False, "gpt")]


@pytest.mark.parametrize("reason", [
    "stop", "eos", "eos_token", "end_turn", "stop_sequence", "STOP", "COMPLETE", "normal", "", None,
])  # fmt: skip
def test_every_legal_end_of_a_text_is_an_answer(reason):
    assert decode("openai", 1, chat(finish_reason=reason), "chat-completion") == [Answer("yes", 9, 1, False, "gpt")]


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
@pytest.mark.parametrize("content", [None, "", " ", [], "<think>so", "<think>so</think> "])
def test_a_budget_that_ran_out_before_the_text_is_named_and_not_tried_again(reason, content):
    reply = chat(finish_reason=reason, message={"content": content})
    (failure,) = decode("openai", 1, reply, "chat-completion")
    assert failure == Failure(
        "truncated",
        f"200 without a text: the token limit (max_tokens) ran out first (finish_reason: {reason})",
    )


def test_the_message_tells_the_budget_and_what_went_to_reasoning():
    reply = msgspec.json.decode(chat(finish_reason="length", message={"content": None}))
    reply["usage"] = {"completion_tokens": 64, "completion_tokens_details": {"reasoning_tokens": 60}}
    end = endpoint("openai", "chat-completion", max_tokens=64)
    (failure,) = KINDS["openai"].protocol().decode(end, 1, 200, {}, body(reply))
    assert failure.message == (
        "200 without a text: max_tokens = 64 ran out first (finish_reason: length); 60 of 64 tokens were reasoning"
    )


def test_a_summary_whose_budget_ran_out_is_named_too():
    reply = [{"summary_text": "", "details": {"finish_reason": "length"}}]
    (failure,) = decode("hf", 1, body(reply), "summarization")
    assert failure.kind == "truncated"


@pytest.mark.parametrize("content", [
    [{"type": "text", "text": "yes"}],
    [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"type": "text", "text": "ye"},
     {"type": "output_text", "text": "s"}],
    "yes",
])  # fmt: skip
def test_text_parts_of_a_message_are_joined(content):
    reply = chat(message={"content": content})
    assert decode("openai", 1, reply, "chat-completion") == [Answer("yes", 9, 1, False, "gpt")]


def event(choice, **more):
    return "data: " + body({"model": "gpt", "choices": [choice] if choice else []} | more).decode() + "\n\n"


STREAM = (
    ": keep-alive\n\n" + event({"delta": {"role": "assistant", "content": "ye"}})
    + event({"delta": {"content": "s"}}) + event({"delta": {}, "finish_reason": "stop"})
    + event(None, usage={"prompt_tokens": 9, "completion_tokens": 1})
)  # fmt: skip


@pytest.mark.parametrize("raw", [
    chat() + b"\n\ndata: [DONE]\n\n",
    chat() + b"data: [DONE]",
    b"\xef\xbb\xbf" + chat(),
    b"\n\n\n" + chat(),
    b": keep-alive\n\n" + chat(),
    b"data: " + chat() + b"\n\ndata: [DONE]\n\n",
    (STREAM + "data: [DONE]\n\n").encode(),
    STREAM.encode(),
])  # fmt: skip
def test_an_answer_in_or_beside_a_stream_is_taken(raw):
    assert decode("openai", 1, raw, "chat-completion") == [Answer("yes", 9, 1, False, "gpt")]


@pytest.mark.parametrize("raw", [
    event({"delta": {"content": "ye"}}).encode(),
    b"data: {\n\n",
    event({"delta": {"content": "ye"}}).encode() + b'data: {"error": {"code": 502, "message": "lost"}}\n\n',
])  # fmt: skip
def test_a_stream_that_was_cut_is_no_answer(raw):
    with pytest.raises(EndpointError) as caught:
        decode("openai", 1, raw, "chat-completion")
    assert caught.value.kind in ("invalid", "transient")


def test_an_item_of_a_batch_that_is_an_error_fails_alone():
    data = [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 1, "embedding": None, "error": {"code": 429}},
            {"index": 2, "error": {"message": "input is too long: 900 tokens > 512"}}]  # fmt: skip
    answers = decode("openai", 3, body({"data": data, "model": "m"}))
    assert answers[0] == Answer(ONE, 0, 0, False, "m")
    assert [answer.kind for answer in answers[1:]] == ["transient", "too_long"]
    with pytest.raises(EndpointError) as caught:
        decode("openai", 1, body({"data": [{"error": {"code": 429}}]}))
    assert caught.value.kind == "rate"


@pytest.mark.parametrize("name", ["dimensions", "output_dimension", "dimension"])
def test_a_server_that_ignores_the_dimension_asked_for_is_a_configuration_error(name):
    end = endpoint("openai", **{name: 3})
    reply = body({"data": [{"index": 0, "embedding": [1.0, 0.0]}]})
    with pytest.raises(EndpointError) as caught:
        KINDS["openai"].protocol().decode(end, 1, 200, {}, reply)
    assert (caught.value.kind, str(caught.value)) == (
        "config", f"parameters.{name} = 3, but the server gives vectors of 2 dimensions",
    )  # fmt: skip


def test_base64_that_is_no_float32_is_named():
    reply = body({"data": [{"index": 0, "embedding": base64.b64encode(b"12345").decode()}]})
    with pytest.raises(EndpointError, match="a vector of 5 bytes, not a multiple of 4"):
        decode("openai", 1, reply)
