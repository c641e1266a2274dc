"""How a version is run: one value, the same in the config, in the stored state and in the worker.

The config reads it from what a user wrote, a version carries it, and the worker runs by it. Its defaults are
those of the config. Durations are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtimes.engines.task import Task
from runtimes.signature import Resources, Signature


@dataclass(frozen=True, slots=True)
class Batching:
    """Which calls run together: batches of at most `max_batch_size` rows.

    A call waits at most `max_delay` for others; with 0 only those run together that wait anyway.
    """

    max_batch_size: int = 32
    max_delay: float = 0.002


COMPUTE_GRACE_SECONDS = 10.0
"""How much longer than it may wait for the model a call may be computed, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many calls may wait for a worker's model, how many bytes their bodies have, and for how long."""

    max_requests: int = 512
    max_bytes: int = 256 * 1024 * 1024
    timeout: float = 60.0
    compute_timeout: float | None = None
    """How long the model may compute a call; None: `timeout`, and a grace."""

    @property
    def compute_seconds(self) -> float:
        """How long the model may compute a call before that is ended."""
        if self.compute_timeout is not None:
            return self.compute_timeout
        return self.timeout + COMPUTE_GRACE_SECONDS


DEFAULT_LIMITS = QueueLimits()
LOAD_SECONDS = 900.0
NOTHING_STATED = Signature((), ())


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many workers run a version, and when that changes; most names are Ray Serve's.

    With `min` 0, a version that nobody calls has no worker: it sleeps, and the next call wakes it.
    """

    min: int = 1
    max: int = 1
    target_ongoing_requests: float = 8.0
    upscale_delay: float = 2.0
    downscale_delay: float = 60.0
    downscale_to_zero_delay: float = 300.0
    wake_timeout: float = 60.0
    """How long a call waits for a version that wakes."""

    @property
    def may_sleep(self) -> bool:
        """Whether there is no worker while nobody calls."""
        return self.min == 0

    @property
    def first(self) -> int:
        """How many workers must be ready before a new version takes calls: one even where it may sleep."""
        return max(1, self.min)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be."""

    minimum: float
    maximum: float
    is_whole: bool = False


ENGINE_BOUNDS: Mapping[str, Bounds] = {
    "context": Bounds(16, 2**24, is_whole=True),
    "slots": Bounds(1, 256, is_whole=True),
    "batch": Bounds(1, 2**16, is_whole=True),
}
"""The numbers of `Engine`."""

SAMPLING_BOUNDS: Mapping[str, Bounds] = {
    "temperature": Bounds(0, 2),
    "top_p": Bounds(0, 1),
    "top_k": Bounds(0, 1_000_000, is_whole=True),
    "min_p": Bounds(0, 1),
    "max_tokens": Bounds(1, 2**24, is_whole=True),
    "presence_penalty": Bounds(-2, 2),
    "frequency_penalty": Bounds(-2, 2),
    "repetition_penalty": Bounds(0.01, 10),
    "seed": Bounds(0, 2**32 - 1, is_whole=True),
}
"""The members of `Generation.sampling`."""

MAX_STOP_WORDS = 16
MAX_STOP_LENGTH = 200
"""How many characters each of them may have."""
MAX_PROMPT = 1_000_000
"""How many characters a system prompt or a chat template may have."""


def is_template(text: str) -> bool:
    """Tell whether a text looks like a Jinja template: it has an expression or a statement in it."""
    return "{{" in text or "{%" in text


@dataclass(frozen=True, slots=True)
class Engine:
    """How the engine of a language model is started; None leaves a value to the kit, then to the engine."""

    context: int | None = None
    """How many tokens a call may have, its prompt and its answer together."""
    slots: int | None = None
    """How many calls run at a time in one worker."""
    batch: int | None = None
    """How many tokens of prompts are computed at a time."""
    task: Task | None = None
    """What the model is for, where its files do not say so."""
    chat_template: str | None = None
    """A Jinja template in place of the model's own."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What calls on a language model have that do not say it themselves; None and () leave it to the kit.

    `sampling` are members of a call by the OpenAI API's names, such as `temperature` and `max_tokens`, in the
    order of `SAMPLING_BOUNDS`.
    """

    sampling: tuple[tuple[str, float | int], ...] = ()
    stop: tuple[str, ...] = ()
    """Words that end an answer, besides those of the call."""
    system_prompt: str | None = None
    """The first message of a chat whose caller sent no system message."""


NO_ENGINE = Engine()
NO_GENERATION = Generation()


@dataclass(frozen=True, slots=True)
class Serving:
    """How a version is run.

    Its workers depend on all of it but `scaling`: a change takes new workers. A change of `scaling` is
    applied to the workers that run.
    """

    resources: Resources = field(default_factory=Resources)
    batching: Batching | None = None
    """None: each call runs alone."""
    queue: QueueLimits = DEFAULT_LIMITS
    scaling: Scaling = Scaling()
    stated: Signature = NOTHING_STATED
    """What the config states of the model's inputs and outputs."""
    engine: Engine = NO_ENGINE
    generation: Generation = NO_GENERATION
    load_timeout: float = LOAD_SECONDS
    """How long a model may take to load."""


DEFAULT_SERVING = Serving()
