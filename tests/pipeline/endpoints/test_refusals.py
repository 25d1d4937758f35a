"""The class of a refusal follows from what it says: bodies of many services, in both directions."""

import json

import pytest

from pipeline.endpoints.error_bodies import without_echoes
from pipeline.endpoints.refusals import embedded_error, refusal


def kind_of(status, body):
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return refusal(status, {}, raw).kind


def openai(message, code=None, param=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


TOO_LARGE = [
    # vLLM, SGLang
    (400, openai("This model's maximum context length is 512 tokens. However, you requested 700 tokens.")),
    (400, openai("The prompt (total length 9000) is too long to fit into the model (context length 8192).")),
    (400, openai("This model's maximum context length is 4096 tokens. However, you requested 5100 tokens "
                 "(4100 in the messages, 1000 in the completion). Please reduce the length of the messages.")),
    (400, openai("'max_tokens' or 'max_completion_tokens' is too large: 3500. This model's maximum context "
                 "length is 4096 tokens and your request has 900 input tokens (3500 > 4096 - 900).")),
    (500, {"object": "error", "message": "The decoder prompt (length 9000) is longer than the maximum model "
           "length of 8192.", "type": "InternalServerError", "code": 500}),
    (400, {"error": {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."}}),
    (400, {"message": "Input length (9000 tokens) exceeds the maximum allowed length (8187 tokens)."}),
    # llama.cpp
    (500, openai("input (900 tokens) is too large to process. increase the physical batch size")),
    (500, openai("input is larger than the max context size. skipped", kind="server_error")),
    (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "try increasing it"}}),
    (400, {"error": {"code": 400, "message": "does not fit", "n_prompt_tokens": 900, "n_ctx": 512}}),
    (400, openai("Illegal param: prefill 900 tokens exceed n_ctx_per_seq")),
    (500, openai("Input prompt is too big compared to KV size. Please try increasing KV size.")),
    (500, "the request exceeds the available context size"),
    # TEI, TGI
    (422, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 700",
           "error_type": "Validation"}),
    (422, {"error": "`inputs` must have less than 128000 characters. Given: 190000", "error_type": "Validation"}),
    (422, {"error": "batch size 40 > maximum allowed batch size 32", "error_type": "Validation"}),
    (413, "Failed to buffer the request body: length limit exceeded"),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1000 "
           "`inputs` tokens and 1200 `max_new_tokens`", "error_type": "validation"}),
    (422, {"error": "Number of prompts exceeds the maximum allowed batch size of 4"}),
    # Ollama, LM Studio
    (400, {"error": "the input length exceeds the context length"}),
    (500, {"error": "prompt too long; exceeded max context length by 123 tokens"}),
    (400, {"error": "The number of tokens to keep from the initial prompt is greater than the context length"}),
    (400, {"error": "Trying to keep the first 4700 tokens when context the overflows. However, the model is loaded "
           "with context length of only 4096 tokens, which is not enough."}),
    (500, {"error": "Context size has been exceeded."}),
    # OpenAI, Azure
    (400, openai("no text", code="context_length_exceeded")),
    (400, openai("no text", code="string_above_max_length", param="input")),
    (400, openai("Invalid 'input': array too long. Expected an array with maximum length 2048, but got an array "
                 "with length 3000 instead.", code="array_above_max_length", param="input")),
    (400, openai("Invalid 'input': maximum request size is 300000 tokens per request.")),
    (400, openai("Requested 400000 tokens, max 300000 tokens per request", code="max_tokens_per_request")),
    (400, openai("Too many inputs. The max number of inputs is 16.")),
    (400, openai("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.")),
    (429, openai("Request too large for gpt-4.1 on tokens per min (TPM): Limit 30000, Requested 50000.")),
    # proxies
    (400, openai("litellm.ContextWindowExceededError: OpenAIException - This model's maximum context length is "
                 "8192 tokens.")),
    (500, {"error": json.dumps(openai("This model's maximum context length is 8192 tokens"))}),
    (502, {"error": {"message": "upstream: prompt is too long: 210000 tokens > 200000 maximum"}}),
    (413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
    (500, "PayloadTooLargeError: request entity too large"),
    (500, "rpc error: Received message larger than max (4500000 vs. 4194304)"),
    # Cohere, Voyage, Mistral, Jina, xAI, Anthropic, Bedrock, Google, Replicate, Triton
    (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4500."}),
    (400, {"message": "invalid request: total number of texts must be at most 96 - received 100."}),
    (400, {"detail": "The max allowed tokens per submitted batch is 120000. Your batch has 130000 tokens."}),
    (400, {"detail": "The batch size limit is 1000. Your batch size is 1200."}),
    (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
           "32768 maximum context length", "type": "invalid_request_prompt"}),
    (400, {"detail": "Input text exceeds maximum length of 8194 tokens"}),
    (422, {"detail": "Single text cannot exceed 8194 tokens. 9000 tokens given."}),
    (422, {"detail": "[ValidationError] Batch size too large; 2048"}),
    (400, {"error": "This model's maximum prompt length is 131072 but the request contains 140000 tokens."}),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
           "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    (400, {"error": {"message": "input length and `max_tokens` exceed context limit: 188240 + 2133 > 190000"}}),
    (400, {"message": "Input is too long for requested model."}),
    (400, {"message": "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token count: 9000"}),
    (400, {"message": "Malformed input request: expected maxLength: 2048, actual: 3000"}),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT",
            "message": "The input token count (40000) exceeds the maximum number of tokens allowed (32768)."}}]),
    (400, {"error": {"message": "at most 100 requests can be in one batch", "status": "INVALID_ARGUMENT"}}),
    (422, {"detail": "Prompt length exceeds maximum input length. Detail: E1002 PromptTooLong", "title": "failed"}),
    (400, {"error": "inference request batch-size must be <= 8 for 'model'"}),
    # FastAPI
    (422, {"detail": [{"type": "too_long", "loc": ["body", "input"],
           "msg": "List should have at most 32 items after validation, not 64"}]}),
    (422, {"detail": [{"type": "string_too_long", "loc": ["body", "inputs", 0],
           "msg": "String should have at most 2048 characters"}]}),
    # Chinese services
    (400, {"code": "InvalidParameter", "message": "Range of input length should be [1, 8192]"}),
    (400, {"code": "InvalidParameter", "message": "batch size is invalid, it should not be larger than 10.: input.contents"}),
    (400, {"error": {"code": "1261", "message": "Prompt 超长"}}),
    (400, {"error": {"code": "1214", "message": "input数组最大不得超过64条"}}),
    (400, {"error": {"message": "输入内容长度超过模型最大上下文限制"}}),
    (500, {"error_code": 336007, "error_msg": "input too long, please reduce it"}),
    (400, {"error_code": 336003, "error_msg": "embeddings max tokens per batch size is 384"}),
    (400, {"error_msg": "embeddings max batch size is 16"}),
    (400, {"code": 20015, "message": "length of prompt_tokens (9000) must be less than max_seq_len (8192).", "data": None}),
    (413, {"code": 20042, "message": "input must have less than 512 tokens", "data": None}),
    (400, {"error": {"message": "tokens 数量超过上限"}}),
    (500, {"message": "文本过长，请分段后重试"}),
    (400, {"message": "单次请求的文本条数不能超过 25 条"}),
    (400, {"message": "Invalid request: Your request exceeded model token limit: 8192"}),
    (400, {"message": "输入 token 数大于模型支持的最大值 4096"}),
    # German, French, Japanese
    (400, {"error": "Die Eingabe ist zu lang: 900 Tokens, höchstens 512"}),
    (400, {"error": "Die Anfrage überschreitet die maximale Länge"}),
    (422, {"message": "L'entrée dépasse la longueur maximale du contexte (512 jetons)"}),
    (400, {"message": "入力トークン数が最大値 512 を超えています"}),
]
"""About the size of the input or the batch: halved, then cut."""

OTHERS = [
    # a parameter of the job
    (400, "config", openai("max_tokens must be at most 4096")),
    (400, "config", openai("max_tokens is too large: 5000. This model supports at most 4096 completion tokens, "
                           "whereas you provided 5000.", param="max_tokens")),
    (400, "config", openai("max_tokens: 10000 > 8192, which is the maximum allowed number of output tokens")),
    (400, "config", openai("'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context "
                           "length is 4096 tokens and your request has 900 input tokens (5000 > 4096 - 900).")),
    (400, "config", openai("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
                           "(900 in the messages, 4100 in the completion).")),
    (422, "config", {"error": "Input validation error: `max_new_tokens` must be <= 512. Given: 600"}),
    (422, "config", {"detail": [{"type": "less_than_equal", "loc": ["body", "max_tokens"], "input": 9999,
                                 "msg": "Input should be less than or equal to 4096"}]}),
    (400, "config", {"code": "InvalidParameter", "message": "Range of max_tokens should be [1, 2000]"}),
    (400, "config", {"message": "max_completion_tokens 参数不能超过 8192"}),
    (400, "config", openai("`max_tokens` must be greater than `thinking.budget_tokens`.")),
    (400, "config", openai("Unsupported value: 'temperature' does not support 0", param="temperature")),
    (400, "config", openai("Unknown parameter: 'foo'", code="unsupported_parameter")),
    (422, "poison", {"error": "`stop` supports up to 4 stop sequences. Given: 5"}),
    (422, "poison", {"error": "`dimensions` should be smaller than the maximum embedding dimension."}),
    (422, "poison", {"error": "truncate_prompt_tokens value (600) is greater than max_model_len"}),
    # rates
    (429, "rate", openai("Rate limit reached on tokens per min (TPM): Limit 30000, Used 22999, Requested 16321.")),
    (429, "rate", {"error": "Request length 9000 exceeds the tokens left in this minute"}),
    (429, "rate", {"message": "Too many tokens per minute, please wait before trying again."}),
    (429, "rate", {"message": "请求过于频繁，每分钟 token 数超过限制"}),
    (403, "rate", {"error": {"message": "Rate limit exceeded", "code": "rateLimitExceeded"}}),
    (400, "rate", {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded, please try again later."}),
    (500, "rate", {"message": "每分钟请求数超过限制"}),
    (400, "rate", {"error_code": 18, "error_msg": "Open api qps request limit reached"}),
    (429, "rate", [{"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED",
                              "details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "17s"}]}}]),
    # credentials and money
    (401, "auth", {"error": "token length exceeds the maximum of 64 characters"}),
    (403, "auth", {"error": "The context of this token is too long to verify"}),
    (402, "quota", {"error": "prompt tokens limit exceeded: 3000 > 2000. Add credits"}),
    (400, "auth", [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]),
    (500, "auth", {"error": {"message": "无效的令牌", "type": "new_api_error"}}),
    (400, "quota", {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}),
    (400, "quota", {"error": {"message": "Your credit balance is too low to access the API."}}),
    (429, "quota", {"error": {"code": "1113", "message": "您的账户余额不足，请充值"}}),
    (403, "quota", {"error": {"message": "用户额度不足"}}),
    # overload, time, transport
    (500, "transient", {"error": "upstream request timeout exceeded"}),
    (500, "transient", {"error": "context deadline exceeded"}),
    (504, "transient", {"error": "input processing exceeded the time limit of 30 seconds"}),
    (503, "overload", {"error": "queue too long"}),
    (503, "overload", {"error": "batch queue is full"}),
    (500, "overload", {"error": "request queue is too long, 512 in flight"}),
    (503, "overload", {"error": "server busy, please try again.  maximum pending requests exceeded"}),
    (500, "transient", {"error": "HTTPConnectionPool: Max retries exceeded with url: /v1/embeddings"}),
    (500, "transient", {"error": "CUDA out of memory: batch of 32 exceeds what is left"}),
    (500, "overload", {"error": {"message": "系统繁忙，请稍后再试"}}),
    (500, "transient", {"error": "The model returned an invalid response"}),
    (500, "transient", {"error": {"message": "Internal error while the model was generating"}}),
    (502, "transient", "<html><title>502 Bad Gateway</title></html>"),
    # loading
    (503, "loading", openai("Loading model", kind="unavailable_error")),
    (404, "loading", {"error": "model is still loading, try again later"}),
    (404, "loading", {"error": "Deployment temporarily has no replica"}),
    (503, "loading", {"message": "模型加载中，请稍后"}),
    (424, "poison", {"error": "Backend error: x", "error_type": "Backend"}),
    # headers and paths
    (431, "config", "Request Header Fields Too Large"),
    (400, "config", "<html><head><title>400 Request Header Or Cookie Too Large</title></head></html>"),
    (400, "config", "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"),
    (414, "config", "URI Too Long"),
    # model, task, path
    (400, "config", openai("/chat/completions: Invalid model name passed in model=gpt-9. Call `/v1/models`")),
    (404, "config", openai("The model `emb` does not exist.", kind="NotFoundError")),
    (400, "config", {"error": "model 'nomic' not found, try pulling it first"}),
    (400, "config", {"error": {"code": "1211", "message": "模型不存在，请检查模型代码。"}}),
    (400, "config", {"message": "不支持的模型: bge-9"}),
    (400, "config", {"error": {"message": "无效的模型名称"}}),
    (400, "config", {"error": "Task feature-extraction is not supported for model org/m"}),
    (400, "config", {"error": "The model does not support Embeddings API"}),
    (501, "config", {"error": {"message": "This server does not support embeddings. Start it with `--embeddings`"}}),
    (400, "config", {"error": "Unexpected endpoint or method. (POST /embeddings)"}),
    (424, "config", {"error": "Model is not an embedding model", "error_type": "Backend"}),
    (404, "config", {"message": "no Route matched with those values"}),
    (404, "config", "404 page not found"),
    (404, "config", b""),
    (404, "config", {"detail": "Not Found"}),
    (404, "config", "<html><body>404 page not found</body></html>"),
    (404, "config", "<!DOCTYPE html><html><body><pre>Cannot POST /v1/embeddings</pre></body></html>"),
    (405, "config", "Method Not Allowed"),
    (503, "config", {"error": {"message": "当前分组下对于模型 x 无可用渠道", "code": "model_not_found"}}),
    (400, "config", {"error": "Das Modell x existiert nicht"}),
    (400, "config", {"error": "モデル x が見つかりません"}),
    # this input
    (404, "poison", {"error": "the document was not found in the store"}),
    (400, "poison", {"error": ["Error in `inputs.context`: field required"]}),
    (400, "poison", {"error": "Invalid 'input': input cannot be an empty string."}),
    (422, "poison", {"error": "text must be longer than 0 characters"}),
    (422, "poison", {"detail": [{"type": "string_type", "loc": ["body", "input"], "msg": "Input should be a valid string",
                                 "input": "the model was not found, the context exceeds 512 tokens"}]}),
    (403, "poison", {"error": {"message": "Your chosen model requires moderation and your input was flagged"}}),
    (400, "poison", {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}),
    (400, "poison", {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}),
    (403, "poison", "<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>"),
    (401, "poison", "<html><head><title>Sign in to the proxy</title></head></html>"),
    (403, "auth", {"error": "The model `x` is not available with your key"}),
]  # fmt: skip
"""Not about the size, though many of them speak of lengths and limits."""


@pytest.mark.parametrize(("status", "body"), TOO_LARGE)
def test_a_refusal_about_size_is_recognised_by_its_words(status, body):
    assert kind_of(status, body) == "too_long"


@pytest.mark.parametrize(("status", "kind", "body"), OTHERS)
def test_other_refusals_that_speak_of_lengths_models_and_limits(status, kind, body):
    assert kind_of(status, body) == kind


def test_there_are_enough_of_both():
    assert len(TOO_LARGE) >= 70
    assert len(TOO_LARGE) + len(OTHERS) >= 150


@pytest.mark.parametrize("status", [401, 403])
def test_a_page_of_a_proxy_is_named_and_no_hint_at_the_key(status):
    page = b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>"
    error = refusal(status, {"server": "cloudflare"}, page)
    assert str(error) == (
        f"{status} a web page of a proxy (server: cloudflare) blocks this call: Attention Required! | Cloudflare"
    )


@pytest.mark.parametrize(("body", "message"), [
    ([{"error": "no such adapter"}], "400 no such adapter"),
    ({"error": "Bad Request", "message": "say more"}, "400 Bad Request; say more"),
    ({"errors": [{"message": "first"}, {"message": "second"}]}, "400 first; second"),
    ({"base_resp": {"status_code": 2013, "status_msg": "invalid params"}}, "400 invalid params"),
    ({"error": json.dumps({"error": {"message": "from behind"}})}, "400 from behind"),
    ({"detail": [{"loc": ["body", "input"], "msg": "Input should be a list"}]}, "400 input: must be a list"),
])  # fmt: skip
def test_the_text_of_an_error_is_found_in_every_shape(body, message):
    assert str(refusal(400, {}, json.dumps(body).encode())) == message


@pytest.mark.parametrize(("value", "kind"), [
    ({"code": 502, "message": "upstream went away"}, "transient"),
    ({"code": "429", "message": "slow"}, "rate"),
    ({"code": 503}, "overload"),
    ({"code": 400, "message": "This model's maximum context length is 512 tokens"}, "too_long"),
    ({"message": "model x not found"}, "config"),
    ({"status_code": 1004, "status_msg": "invalid api key"}, "auth"),
    ({"status_code": 1002, "status_msg": "rate limit"}, "rate"),
    ({"message": "something broke"}, "invalid"),
    ("something broke", "invalid"),
    (True, "invalid"),
])  # fmt: skip
def test_an_error_inside_a_200_has_the_class_of_its_code(value, kind):
    assert embedded_error(value).kind == kind


def test_an_echo_is_cut_out_and_the_words_of_the_service_stay():
    text = "a long sentence of the user, in which a model is not found"
    body = json.dumps({"error": f"cannot read '{text}' here", "code": "bad"}).encode()
    assert json.loads(without_echoes(body, [text])) == {"error": "cannot read '…' here", "code": "bad"}
    part = json.dumps({"error": f"near: {text[:45]}"}).encode()
    assert json.loads(without_echoes(part, [text])) == {"error": "near: …"}
    assert without_echoes(b"model is not found", ["a model"]) == b"model is not found"
