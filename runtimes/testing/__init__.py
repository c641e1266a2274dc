"""The contract of a runtime, as tests that a third party's runtime can run on itself.

There is one suite for each capability that a loaded model may have (see `runtimes.base`). The test class of
a runtime declares what its models can do by the suite that it inherits, and gives the fixtures:

    class TestMine(TensorContract):
        engine = "my_engine"

        @pytest.fixture
        def runtime(self) -> Runtime: ...
        @pytest.fixture
        def model_path(self) -> Path: ...
        @pytest.fixture
        def inputs(self) -> dict[str, Array]: ...
        @pytest.fixture
        def expected(self) -> dict[str, Array]: ...

A runtime whose models can do several things has a test class for each of them. Further suites are inherited
beside that of the capability, where they apply:

    class TestMine(TensorContract, ProcessContract): ...    threads, memory, damage; once for each format
    class TestRows(TensorContract, TableContract): ...      models of rows with named columns
    class TestMore(TensorContract, OnRequestContract): ...  outputs that are made only where a call names them
    class TestNames(TensorContract, LabelledContract): ...  names of classes

`pytest.register_assert_rewrite("runtimes.testing")` in a conftest.py has failures show what was compared.
"""

from runtimes.testing.outputs import LabelledContract, OnRequestContract
from runtimes.testing.process import ProcessContract
from runtimes.testing.runtime import RuntimeContract
from runtimes.testing.tables import TableContract
from runtimes.testing.tensors import TensorContract

__all__ = [
    "LabelledContract",
    "OnRequestContract",
    "ProcessContract",
    "RuntimeContract",
    "TableContract",
    "TensorContract",
]
