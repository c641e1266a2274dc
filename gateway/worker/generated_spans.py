"""The spans of a call on a language model, with none of its words, by OpenTelemetry's conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.codec.openai.members import Endpoint
from gateway.engine.job_spans import CANCELLED
from gateway.metrics.tokens import Tokens
from gateway.tracing.call_trace import ROLE, CallTrace
from gateway.tracing.span import Value
from gateway.worker.generated_log import HUNG_UP

OPERATION = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
_FIRST_FAILURE = 500

OPERATIONS: Mapping[Endpoint, str] = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "text_completion",
    Endpoint.RESPONSES: "chat",
    Endpoint.EMBEDDINGS: "embeddings",
    Endpoint.RERANK: "rerank",
}
"""What the conventions call each endpoint; they have no word for the last one."""


@dataclass(frozen=True, slots=True)
class GeneratedCall:
    """What a span tells of a call that has ended. Seconds count from `began`, of `time.perf_counter`."""

    endpoint: Endpoint
    requested: str
    """The model by the caller's name."""
    role: str
    request_id: str
    began: float
    queue_seconds: float
    seconds: float
    is_streamed: bool


def record_generated(
    trace: CallTrace,
    call: GeneratedCall,
    status: int,
    tokens: Tokens,
    first_seconds: float,
    reasons: tuple[str, ...],
    model: str,
) -> None:
    """Record a call that has ended with `status`, or because its caller hung up."""
    operation = OPERATIONS[call.endpoint]
    attributes: dict[str, Value] = {
        OPERATION: operation,
        "gen_ai.provider.name": "kitserve",
        REQUEST_MODEL: call.requested or model,
        "gen_ai.response.model": model,
        "gen_ai.request.stream": call.is_streamed,
        ROLE: call.role,
        "kitserve.request_id": call.request_id,
    }
    if tokens.input:
        attributes[INPUT_TOKENS] = tokens.input
        attributes["gen_ai.usage.cache_read.input_tokens"] = tokens.cached
    if call.endpoint.is_generating:
        attributes["gen_ai.usage.output_tokens"] = tokens.output
        if first_seconds:
            attributes["gen_ai.response.time_to_first_chunk"] = first_seconds
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = reasons
    error = ""
    if status == HUNG_UP:
        error, attributes["error.type"] = CANCELLED, "cancelled"
    else:
        attributes["http.response.status_code"] = status
        if status >= _FIRST_FAILURE:
            error = attributes["error.type"] = str(status)
    started = call.began + call.queue_seconds
    role: dict[str, Value] = {ROLE: call.role}
    parts = [trace.part("queue", call.began, started, role)]
    if call.seconds > call.queue_seconds:
        parts.append(trace.part("compute", started, call.began + call.seconds, role))
    trace.end(f"{operation} {model}", call.began, attributes, parts, error)
