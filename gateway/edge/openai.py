"""How a call of the OpenAI API says which model it is for, as HAProxy reads it. Pure.

A model is named `NAME`, `NAME:TAG`, `NAME@sha256:HEX` or `NAME@HEX`, the last with the first 12 digits.
"""

from __future__ import annotations

from gateway.codec.openai.errors import error_body

MODEL_HEADERS = ("ModelKit-Model", "X-Gateway-Model-Name")
"""The headers that name a model; the second is what gateways in front of Kitserve send (Gateway API)."""
SESSION_HEADER = "X-Session-Id"
"""The header by which calls of one conversation find the worker that has its beginning in its cache."""
BASE_URL = r"^/models/[^/]+(/versions/[^/]+)?(/v1(/.*)?)$"
"""The paths of one model, whose second group is the path of the API; clients take the rest for a base URL."""
NAME = (
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@(sha256:[0-9a-f]{64}|[0-9a-f]{12}))?$"
)
"""What a call may name a model by: nothing else is looked up."""
SEPARATORS = ":@"
"""What stands between a model's name and its version."""
CALLS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
)
"""The paths that are called with POST, and must say for which model."""
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""The paths whose calls have a prompt that an engine keeps its work on."""
PREFIXES = (
    "messages[0].content",
    "messages[0].content[0].text",
    "prompt",
    "input",
    "input[0].content",
    "input[0].content[0].text",
)
"""Where a call has the first words of its prompt, in JSONPath; each where those before are missing."""
PREFIX_BYTES = 1024
"""How much of the first words is looked at."""
NO_MODEL = (
    "say which model: send `model` in the body, or the header ModelKit-Model, or call /models/NAME/v1; "
    "GET /v1/models lists them"
)
COMPRESSED = (
    "the edge reads no compressed body: send the header ModelKit-Model, or call /models/NAME/v1, "
    "or send the body as it is"
)
TWO_MODELS = "a header that names the model comes more than once"
BASE_URL_ADVICE = (
    "the base URL of the OpenAI API is http://HOST/v1, or http://HOST/models/NAME/v1 for one model"
)
NOT_OLLAMA = "the API of Ollama is not served; call the OpenAI API, at /v1"
SHOWN_BYTES = 200
"""How much of a name that is none is given back in an error."""


def error(status: int, message: str, code: str | None = None, param: str | None = None) -> str:
    """Return an error's body for HAProxy's configuration; HAProxy's expressions may be in the message."""
    return error_body(status, message, code, param).decode()
