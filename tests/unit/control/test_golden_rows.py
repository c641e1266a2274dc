"""The golden dataset's gate: a real dataset layer, real models, real workers' servers."""

from __future__ import annotations

import json
import math
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import Announcement, WorkerState
from gateway.control.rollouts import golden_gate
from gateway.control.rollouts.golden_gate import GateOutcome, GoldenGate
from gateway.control.state.desired import DesiredModel
from gateway.control.state.versions import version_of
from gateway.edge.worker_authority import new_worker_tls
from gateway.engine import golden_rows
from gateway.engine.golden_rows import Row, first_inputs, read_rows, score
from gateway.errors import KitError, KitserveError, RegistryUnavailable, StoreError, Unauthorized
from gateway.kits.datasets import Dataset
from gateway.kits.library import Library
from gateway.kits.model import choose_runtime, load
from gateway.kits.policy import ANYTHING
from gateway.metrics.tally import Tally
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import parse_reference
from gateway.rollout.events import GateFailed, GatesPassed
from gateway.rollout.plan import Golden, Metric
from gateway.rollout.state import Reason
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.golden import golden_inputs
from gateway.worker.version import AppOptions, Identity
from runtimes.base import ANY, Array, Resources, Signature, TensorModel, TensorSpec
from tests.support.ports import free_port
from tests.support.waiting import wait

IRIS = Golden("iris", 0.9)
PATH = "/v2/models/iris/infer"
KEY = "a-secret"
FLOAT4 = TensorSpec("input", "FP32", (-1, 4))
LABEL, SHARES = TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))
SIGNATURE = Signature((FLOAT4,), (SHARES, LABEL))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


class Worker:
    def __init__(self, library: Library, layout: Path, tag: str, tls: ssl.SSLContext | None = None) -> None:
        reference = parse_reference(f"oci-layout:{layout}:samples/iris:{tag}")
        kit = library.open(reference)
        model = load(kit, choose_runtime(kit, None), Resources())
        assert isinstance(model, TensorModel)
        self.signature = model.signature
        self.served = DesiredModel("iris", reference)
        self.version = version_of(self.served, PinnedReference.of(reference, kit.kit.digest), 1)
        identity = Identity("iris", tag, str(kit.kit.digest))
        self.app = build_app(identity, model, Tally(), AppOptions(edge_key=KEY))
        self.server = HttpServer(self.app, "127.0.0.1", tls=tls)
        self.server.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()


@pytest.fixture(scope="module")
def workers(library: Library, layout: Path) -> Iterator[dict[str, Worker]]:
    workers = {tag: Worker(library, layout, tag) for tag in ("v1", "v2", "bad")}
    yield workers
    for worker in workers.values():
        worker.stop()


def check(library: Library, worker: Worker, golden: Golden, **changes: Any) -> GateOutcome:
    """Run the gate until it has an outcome."""
    gate = changes.get("gate") or GoldenGate(lambda: library, KEY)
    canary = worker.version
    host, port = changes.get("address", worker.address)
    announcement = Announcement("w", canary.app, WorkerState.READY, "", host, port)
    deadline = time.monotonic() + 20
    while True:
        outcome = gate.check(1, golden, worker.served, canary, worker.signature, announcement)
        if outcome is not None or changes.get("once"):
            return outcome
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("dataset", ["iris", "data/iris.csv"])
def test_a_good_version_answers_a_dataset_of_its_kit_as_expected(
    library: Library, workers: dict[str, Worker], dataset: str
) -> None:
    for tag in ("v1", "v2"):
        outcome = check(library, workers[tag], Golden(dataset, 0.9))
        assert isinstance(outcome, GatesPassed), outcome
        assert "of 150 rows of data/iris.csv answered as expected" in outcome.message


def test_a_version_that_answers_wrongly_is_stopped_before_any_call(
    library: Library, workers: dict[str, Worker]
) -> None:
    outcome = check(library, workers["bad"], IRIS)
    assert isinstance(outcome, GateFailed)
    assert outcome.reason is Reason.GOLDEN_FAILED
    assert outcome.message.endswith("%, at least 90 % are required)")


def test_a_worker_is_asked_over_tls_and_only_one_of_this_start(
    library: Library, layout: Path, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden_gate, "_AGAIN_SECONDS", 0.01)
    tls = new_worker_tls()
    worker = Worker(library, layout, "v1", tls.server_context())
    gate = GoldenGate(lambda: library, KEY, tls.client_context())
    assert isinstance(check(library, worker, IRIS, gate=gate), GatesPassed)
    # What these answer is never known: another start's worker, one in clear, and this one asked in clear.
    rows = read_rows(library.dataset(worker.served.kit, "iris", ANYTHING), IRIS, SIGNATURE)
    for asked, context in (
        (worker, new_worker_tls().client_context()),
        (workers["v1"], tls.client_context()),
        (worker, None),
    ):
        with pytest.raises(OSError, match=r"certificate verify failed|WRONG_VERSION|broke off|reset"):
            score(rows, IRIS, SIGNATURE, asked.address, PATH, KEY, context)
    worker.stop()


def test_what_came_of_another_canary_or_dataset_is_not_taken_for_this_ones(
    library: Library, workers: dict[str, Worker]
) -> None:
    gate = GoldenGate(lambda: library, KEY)
    assert check(library, workers["v1"], IRIS, gate=gate, once=True) is None
    assert isinstance(check(library, workers["bad"], IRIS, gate=gate), GateFailed)
    assert check(library, workers["v1"], IRIS, gate=gate, once=True) is None
    assert isinstance(check(library, workers["v1"], Golden("flowers"), gate=gate), GateFailed)


def test_of_probabilities_the_likeliest_class_is_compared(
    library: Library, workers: dict[str, Worker]
) -> None:
    golden = Golden("iris", 0.9, target="species", output="probabilities")
    assert isinstance(check(library, workers["v1"], golden), GatesPassed)


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        (Golden("flowers"), "has no dataset called flowers; it has iris"),
        (Golden("iris", target="kind"), "it has no column kind"),
        (Golden("iris", output="nothing"), "the model has no output nothing"),
        (Golden("iris", target="sepal_length"), "is answered with 400|expected"),
    ],
)
def test_a_dataset_that_does_not_fit_is_told(
    library: Library, workers: dict[str, Worker], golden: Golden, words: str
) -> None:
    outcome = check(library, workers["v1"], golden)
    assert isinstance(outcome, GateFailed)
    assert any(word in outcome.message for word in words.split("|")), outcome.message


def test_a_worker_that_does_not_answer_yet_is_asked_again_until_it_does(
    library: Library,
    workers: dict[str, Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(golden_gate, "_AGAIN_SECONDS", 0.01)
    worker = workers["v1"]
    gate = GoldenGate(lambda: library, KEY)
    canary = worker.version
    gone = Announcement("w", canary.app, WorkerState.READY, "", "127.0.0.1", free_port())

    def is_asked_thrice() -> bool:
        assert gate.check(1, IRIS, worker.served, canary, worker.signature, gone) is None
        return caplog.text.count("golden.retried") >= 3

    wait(is_asked_thrice)
    assert isinstance(check(library, worker, IRIS, gate=gate), GatesPassed)


@pytest.mark.parametrize(
    "error",
    [RegistryUnavailable("no answer"), Unauthorized("a password is wrong"), StoreError("the disk is full")],
)
def test_a_dataset_that_cannot_be_fetched_now_is_fetched_later(
    library: Library, workers: dict[str, Worker], error: KitserveError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden_gate, "_AGAIN_SECONDS", 0.01)
    worker = workers["v1"]
    errors: list[KitserveError] = [error]

    def opened() -> Library:
        if errors:
            raise errors.pop()
        return library

    outcome = check(library, worker, IRIS, gate=GoldenGate(opened, KEY))
    assert isinstance(outcome, GatesPassed)
    assert errors == []


def test_rows_of_json_lines_are_tensors_without_their_batch_axis() -> None:
    lines: list[dict[str, Any]] = [
        {"inputs": {"input": [5.1, 3.5, 1.4, 0.2]}, "outputs": {"label": 0}},
        {"inputs": {"input": [6.9, 3.1, 5.8, 2.1]}, "outputs": {"label": 2, "probabilities": [0, 0, 1]}},
    ]
    data = "\n\n".join(json.dumps(line) for line in lines).encode()
    rows = read_rows(Dataset("a.jsonl", data), IRIS, SIGNATURE)
    assert rows == [Row(line["inputs"], line["outputs"]) for line in lines]


def test_json_lines_are_scored(workers: dict[str, Worker]) -> None:
    rows = [
        Row({"input": [5.1, 3.5, 1.4, 0.2]}, {"label": 0}),
        Row({"input": [6.9, 3.1, 5.8, 2.1]}, {"label": 1}),
    ]
    result = score(rows, IRIS, SIGNATURE, workers["v1"].address, PATH, KEY)
    assert (result.right, result.rows, result.share) == (1, 2, 0.5)
    numbers = [Row({"input": [5.1, 3.5, 1.4, 0.2]}, {"probabilities": [1.0, 0.0, 0.0]})]
    close = Golden("iris", metric=Metric.TOLERANCE, atol=0.2)
    assert score(numbers, close, SIGNATURE, workers["v1"].address, PATH, KEY).right == 1
    exact = Golden("iris", metric=Metric.TOLERANCE, atol=1e-9, rtol=0)
    assert score(numbers, exact, SIGNATURE, workers["v1"].address, PATH, KEY).right == 0


def test_columns_are_named_as_the_inputs_where_there_are_several() -> None:
    signature = Signature(
        (TensorSpec("age", "INT64", (-1,)), TensorSpec("name", "BYTES", (-1, 1))),
        (TensorSpec("ok", "BOOL", (-1,)),),
    )
    rows = read_rows(Dataset("a.csv", b"name,ok,age\nada,true,36\n"), Golden("x", target="ok"), signature)
    assert rows == [Row({"age": 36, "name": ["ada"]}, {"ok": True})]


NUMBERS = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
IDS = Signature(
    (
        TensorSpec("id", "INT64", (-1, 1)),
        TensorSpec("text", "BYTES", (-1, 1)),
        TensorSpec("on", "BOOL", (-1,)),
    ),
    (TensorSpec("y", "INT64", (-1,)),),
)


def same_rows(rows: list[Row], inputs: list[Any], outputs: list[Any]) -> bool:
    """Whether these are the rows; NaN is NaN."""
    expected = [Row({"x": row}, {"y": value}) for row, value in zip(inputs, outputs, strict=True)]
    return repr(rows) == repr(expected)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_empty_cells_are_missing_floats(datatype: str, shape: tuple[int, ...]) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1, 3)),), (TensorSpec("y", datatype, shape),))
    data = b'a,b,c,y\n1,,3,\n" ",NA,null,NaN\nn/a,None,nan,-inf\ninf,Infinity,-Infinity,0.5\n'
    rows = read_rows(Dataset("a.csv", data), IRIS, signature)
    nan, inf = math.nan, math.inf
    inputs = [[1.0, nan, 3.0], [nan] * 3, [nan] * 3, [inf, inf, -inf]]
    assert same_rows(rows, inputs, [nan, nan, -inf, 0.5])


def test_null_and_nan_are_missing_floats_in_json_lines() -> None:
    data = b"""{"inputs": {"x": [1, null, "NaN"]}, "outputs": {"y": null}}
{"inputs": {"x": [NaN, Infinity, -Infinity]}, "outputs": {"y": -Infinity}}
"""
    rows = read_rows(Dataset("a.jsonl", data), IRIS, NUMBERS)
    assert same_rows(rows, [[1, None, "NaN"], [None, "Infinity", "-Infinity"]], [None, "-Infinity"])


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (b",a,true,1", "line 3, column id is empty, and INT64 has no missing values"),
        (b"1,a,NA,1", "line 3, column on is empty, and BOOL has no missing values"),
        (b"1,a,true,", "line 3, column y is empty, and INT64 has no missing values"),
        (b"NaN,a,true,1", "line 3, column id: cannot convert float NaN"),
        (b"1,a,maybe,1", "line 3, column on: 'maybe'"),
        (b"1,a,true,inf", "line 3, column y: cannot convert float inf"),
    ],
)
def test_cells_without_a_value_are_told_where_only_floats_may_be_missing(cells: bytes, words: str) -> None:
    data = b"id,text,on,y\n1,,true,1\n" + cells
    with pytest.raises(KitError, match=words):
        read_rows(Dataset("a.csv", data), IRIS, IDS)
    assert read_rows(Dataset("a.csv", data[: -len(cells)]), IRIS, IDS) == [
        Row({"id": [1], "text": [""], "on": True}, {"y": 1})
    ]


def test_a_class_must_be_there() -> None:
    golden = Golden("iris", output="probabilities")
    with pytest.raises(KitError, match="line 2, column y is empty; the index of a class is expected there"):
        read_rows(Dataset("a.csv", b"a,b,c,d,y\n1,2,3,4,\n"), golden, SIGNATURE)


class Imputer:
    """A model that gives its rows back, and their sums where nothing is missing."""

    platform = "test_imputer"
    device = "cpu"

    def __init__(self, datatype: str) -> None:
        rows = TensorSpec("x", datatype, (-1, 3))
        self.signature = Signature(
            (rows,), (TensorSpec("y", datatype, (-1, 3)), TensorSpec("s", datatype, (-1,)))
        )

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return {"y": inputs["x"], "s": inputs["x"].sum(axis=1)}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("metric", [Metric.AUTO, Metric.TOLERANCE])
@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce:RuntimeWarning")
def test_rows_with_missing_values_are_sent_and_scored(datatype: str, metric: Metric) -> None:
    model = Imputer(datatype)
    app = build_app(Identity("iris", "v1", "sha256:12"), model, Tally(), AppOptions(edge_key=KEY))
    server = HttpServer(app, "127.0.0.1")
    server.start()
    try:
        right = [
            Row({"x": [1.0, None, 3.0]}, {"y": [1, math.nan, 3], "s": None}),
            Row({"x": ["Infinity", 1, 2]}, {"y": ["Infinity", 1, 2], "s": math.inf}),
            Row({"x": [1, 2, -math.inf]}, {"y": [1.0, 2.0, -math.inf], "s": "-Infinity"}),
            Row({"x": [1, 2, 3]}, {"y": [1, 2, 3], "s": 6}),
        ]
        wrong = [
            Row({"x": [1, 2, 3]}, {"y": [1, 2, 3], "s": None}),
            Row({"x": [1, 2, None]}, {"y": [1, 2, 3], "s": None}),
            Row({"x": [1, 2, math.inf]}, {"y": [1, 2, -math.inf], "s": math.inf}),
        ]
        golden = Golden("d", metric=metric)
        for rows, share in ((right, 1), (wrong, 0), (right[:1], 1), (wrong[:1], 0)):
            address = server.host, server.port
            assert score(rows, golden, model.signature, address, PATH, KEY).share == share
    finally:
        server.stop()
        app.stop()


@pytest.mark.parametrize(
    ("datatype", "values"), [("INT64", [1, None]), ("BOOL", [True, None]), ("BYTES", ["a", None])]
)
def test_null_is_told_where_only_floats_may_be_missing(datatype: str, values: list[Any]) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1, 2)),), ())
    rows = [Row({"x": values[:1] * 2}, {"y": 1}), Row({"x": values}, {"y": 1})]
    words = f"^row 2: input x has null, and {datatype} has no missing values$"
    with pytest.raises(KitError, match=words):
        score(rows, IRIS, signature, ("127.0.0.1", 1), PATH, KEY)


def test_null_is_told_where_a_label_is_expected(workers: dict[str, Worker]) -> None:
    rows = [Row({"input": [5.1, 3.5, 1.4, 0.2]}, {"label": None})]
    with pytest.raises(KitError, match="a row expects null of output label, and INT64 has no missing values"):
        score(rows, IRIS, SIGNATURE, workers["v1"].address, PATH, KEY)


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("a.csv", b"", "cannot be used"),
        ("a.csv", b"a,b,c,d,y\n", "has no rows"),
        ("a.csv", b"a,b,c,d,y\n1,2,3,4\n", "line 2 has 4 values for 5 columns"),
        ("a.csv", b"a,b,c,d,y\n1,2,3,x,0\n", "could not convert"),
        ("a.jsonl", b"{}\n", "cannot be used"),
        ("a.jsonl", b"nothing\n", "cannot be used"),
        ("a.jsonl", b'{"inputs": {}, "outputs": {}}\n', "must be objects with something in them"),
        ("a.jsonl", b'{"inputs": {"a": 1}, "outputs": {"b": 1}}\n' * 10_001, "more than 10000 rows"),
    ],
)
def test_a_dataset_that_is_none_is_told(path: str, data: bytes, words: str) -> None:
    with pytest.raises(KitError, match=words):
        read_rows(Dataset(path, data), IRIS, SIGNATURE)


def test_two_outputs_without_labels_need_a_name() -> None:
    signature = Signature((FLOAT4,), (SHARES, TensorSpec("other", "FP32", (-1,))))
    with pytest.raises(KitError, match="say which output y is"):
        read_rows(Dataset("a.csv", b"a,b,c,d,y\n1,2,3,4,0\n"), IRIS, signature)


def test_the_first_row_is_a_call_of_its_own(library: Library, layout: Path) -> None:
    reference = parse_reference(f"oci-layout:{layout}:samples/iris:v1")
    inputs = golden_inputs(library, reference, IRIS, ANYTHING, SIGNATURE)
    assert inputs is not None
    assert (inputs["input"].shape, str(inputs["input"].dtype)) == ((1, 4), "float32")
    assert golden_inputs(library, reference, Golden("lilac"), ANYTHING, SIGNATURE) is None
    two = Signature((FLOAT4, TensorSpec("other", "FP32", (4,))), ())
    row = Row({"input": [1, 2, 3, 4], "other": [1, 2, 3, 4]}, {})
    assert {name: array.shape for name, array in first_inputs([row], two).items()} == {
        "input": (1, 4),
        "other": (4,),
    }
    for wrong in (Row({"input": [1, 2, 3, 4]}, {}), Row({"input": [1], "other": ["a"]}, {})):
        with pytest.raises(KitError, match="other"):
            first_inputs([wrong], two)


PEOPLE = Signature(
    (TensorSpec("age", "FP64", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1), may_be_missing=True)),
    (TensorSpec("predict", "FP64", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2))),
    (TensorSpec("id", ANY, (-1, 1)),),
    (TensorSpec("decision_function", "FP64", (-1,)),),
)


def test_a_target_is_what_an_estimator_predicts_and_strings_may_be_missing() -> None:
    rows = read_rows(Dataset("a.csv", b"age,city,id,grade\n51,Oslo,a,1\n,NA,b,2\n"), IRIS, PEOPLE)
    assert rows[0] == Row({"age": [51.0], "city": ["Oslo"]}, {"predict": 1.0})
    assert rows[1].inputs["city"] == [None]
    assert first_inputs(rows[1:], PEOPLE)["city"].tolist() == [[None]]


def test_an_output_on_request_is_asked_for_where_rows_expect_it() -> None:
    data = b"age,city,decision_function\n51,Oslo,1.5\n"
    (row,) = read_rows(Dataset("a.csv", data), IRIS, PEOPLE)
    assert row.outputs == {"decision_function": 1.5}
    request = json.loads(golden_rows._request([row], 1, PEOPLE))
    assert request["outputs"] == [{"name": "decision_function"}]
    assert "outputs" not in json.loads(golden_rows._request([Row(row.inputs, {"predict": 1.0})], 1, PEOPLE))


def test_one_named_column_is_found_among_others() -> None:
    signature = Signature((TensorSpec("age", "FP64", (-1, 1)),), (TensorSpec("predict", "FP64", (-1,)),))
    rows = read_rows(Dataset("a.csv", b"id,age,y\n7,51,1\n"), IRIS, signature)
    assert rows == [Row({"age": [51.0]}, {"predict": 1.0})]
