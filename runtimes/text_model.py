"""The capability of a model that takes texts, as the OpenAI API needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from runtimes.base import TensorModel
from runtimes.engines.task import Task

TEXT = "text"
QUERY = "query"
PROMPT_NAME = "prompt_name"
EMBEDDING = "embedding"
SCORE = "score"
TOKENS = "tokens"


@runtime_checkable
class TextModel(TensorModel, Protocol):
    """The capability to make embeddings of texts, or to score them against a query.

    For EMBEDDING, the input is `text` and the outputs are `embedding` and `tokens`; for RERANK, the inputs
    are `query` and `text`, and the outputs `score` and `tokens`. Texts are UTF-8, one in each row; `tokens`
    is how many a row had.
    """

    @property
    def tasks(self) -> frozenset[Task]:
        """EMBEDDING or RERANK, as `OpenAIModel` has it."""
        ...

    @property
    def dimensions(self) -> int:
        """How many numbers an embedding has; 0 for RERANK."""
        ...

    def may_shorten(self, dimensions: int) -> bool:
        """Tell whether the first `dimensions` numbers of an embedding are an embedding, once normalised."""
        ...

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text that has these tokens. Raises InputError for one that the model does not have."""
        ...
