"""The spans of traced jobs: the wait in the queue, the batch, the model's work."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.engine.jobs import Job
from gateway.tracing.call_trace import ROLE
from gateway.tracing.span import SpanName, Value

_FIRST_FAILURE = 500
CANCELLED = "the caller hung up"


def record_job(job: Job, model: str, *, is_cancelled: bool = False) -> None:
    """Record a traced job that ends now; others are left alone."""
    trace = job.trace
    if trace is None:
        return
    parts = []
    role: dict[str, Value] = {ROLE: job.role}
    began = job.arrived + max(0.0, job.queue_seconds)
    if job.arrived:
        parts.append(trace.part("queue", job.arrived, began, role))
    if job.decode_seconds or job.infer_seconds:
        steps: dict[str, Value] = {
            **role,
            "kitserve.decode_seconds": job.decode_seconds,
            "kitserve.infer_seconds": job.infer_seconds,
            "kitserve.encode_seconds": job.encode_seconds,
        }
        end = began + job.decode_seconds + job.infer_seconds + job.encode_seconds
        links = () if trace.batch is None else (trace.batch,)
        parts.append(trace.part("compute", began, end, steps, links))
    attributes: dict[str, Value] = {
        **role,
        "kitserve.request_id": job.request_id,
    }
    error = ""
    if is_cancelled:
        error, attributes["error.type"] = CANCELLED, "cancelled"
    else:
        attributes["http.response.status_code"] = job.status
        if job.status >= _FIRST_FAILURE:
            error = attributes["error.type"] = str(job.status)
    name = str(trace.attributes.get("gen_ai.operation.name", "infer"))
    trace.end(f"{name} {model}", job.began, attributes, parts, error)


def record_batch(jobs: Sequence[Job], rows: int, started: float, finished: float) -> None:
    """Record a batch in the trace of the first of its traced jobs, with a link to each of them."""
    traces = [job.trace for job in jobs if job.trace is not None]
    if not traces:
        return
    links: list[SpanName] = [trace.own for trace in traces]
    size: dict[str, Value] = {
        ROLE: next(job.role for job in jobs if job.trace is not None),
        "kitserve.batch.calls": len(jobs),
        "kitserve.batch.rows": rows,
    }
    span = traces[0].part("batch", started, finished, size, links)
    traces[0].record(span)
    for trace in traces:
        trace.batch = span.own
