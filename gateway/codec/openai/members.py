"""The table of the members that calls may have: what is passed to the engine, dropped, checked, or refused.

A member that is in no row is refused by its name, as OpenAI does it: an engine ignores what it does not know,
and knows members of its own that callers must not have (its slots, its cache, other callers' settings).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Endpoint(StrEnum):
    """A path of the OpenAI API that an engine answers."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    EMBEDDINGS = "/v1/embeddings"
    RERANK = "/v1/rerank"

    @property
    def is_generating(self) -> bool:
        """Whether its answers are made token by token."""
        return self in (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES)


DROPPED = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "prediction",
    }
)
"""Members that change no answer: they are for OpenAI's own books and caches. No engine gets them."""

ONLY_AS: Mapping[str, tuple[object, ...]] = {
    "service_tier": ("auto", "default"),
    "store": (False,),
    "background": (False,),
    "modalities": (["text"],),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "truncation": ("disabled",),
    "include": ([],),
    "verbosity": ("medium",),
}
"""Members that mean no more here than leaving them out does; with another value they are refused."""

REFUSED: Mapping[str, str] = {
    "audio": "no model here answers with sound",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "web_search_options": "no model here searches the web",
    "previous_response_id": "answers are not kept; send the conversation in input",
    "conversation": "answers are not kept; send the conversation in input",
    "prompt": "send the text in messages, or in input of responses; prompts are not kept",
    "reasoning": "it is the template's matter; use chat_template_kwargs",
    "max_tool_calls": "no tool runs here",
    "context_management": "answers are not kept",
    "moderation": "nothing is moderated here",
}
"""Members that OpenAI has and engines have not, with what to do."""

SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "repeat_penalty",
        "seed",
        "stop",
        "logit_bias",
    }
)
"""How tokens are chosen; `top_k`, `min_p` and `repetition_penalty` are what engines add to OpenAI's."""

_STREAM = frozenset({"stream", "stream_options"})
_LIMITS = frozenset({"max_tokens", "n", "logprobs"})

PASSED: Mapping[Endpoint, frozenset[str]] = {
    Endpoint.CHAT: SAMPLING
    | _STREAM
    | _LIMITS
    | {
        "messages",
        "max_completion_tokens",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "chat_template_kwargs",
        "reasoning_effort",
    },
    Endpoint.COMPLETIONS: SAMPLING | _STREAM | _LIMITS | {"prompt"},
    Endpoint.RESPONSES: SAMPLING
    | _STREAM
    | {
        "input",
        "instructions",
        "max_output_tokens",
        "text",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "chat_template_kwargs",
    },
    Endpoint.EMBEDDINGS: frozenset({"input", "encoding_format", "dimensions"}),
    Endpoint.RERANK: frozenset({"query", "documents", "top_n", "return_documents"}),
}
"""What the engine gets, checked as far as `request` checks it. `model` is there for all."""

NEEDED: Mapping[Endpoint, str] = {
    Endpoint.CHAT: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.RESPONSES: "input",
    Endpoint.EMBEDDINGS: "input",
    Endpoint.RERANK: "query",
}
"""The member without which there is nothing to answer."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself, and the kit of its model."""

    alias: str
    """What it calls its model."""
    slots: int = 1
    context: int = 0
    """How many tokens a call may have; 0 where it is not known."""
    has_tools: bool = False
    has_images: bool = False
    is_llama: bool = False
    """Whether it is llama.cpp's, which has another name for one member."""

    @property
    def repetition(self) -> str:
        """The member for the penalty on words that come again."""
        return "repeat_penalty" if self.is_llama else "repetition_penalty"
