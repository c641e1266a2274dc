"""Kits are pulled over a network that cuts, stalls, alters and refuses: whole, or with a clear error.

Each test spoils the answers of a real registry. Whether or not the pull succeeds, it must leave nothing
half-made; and once the network is sound again, the same node pulls the kit.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import (
    DigestMismatch,
    KitserveError,
    NotFound,
    RegistryUnavailable,
    SizeMismatch,
    Unauthorized,
)
from gateway.kits.library import Library
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import RegistryReference
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.checks import check_clean, check_store, tree
from tests.support.fault_injection import (
    Answer,
    Change,
    Fault,
    FaultProxy,
    chunked,
    claiming,
    flipped,
    gzipped,
    headed,
    resized,
    run_faults,
    says,
)
from tests.support.registry import Registry, run_registry
from tests.support.tokens import TokenServer, run_token_server

WEIGHTS = random.Random(7).randbytes(600_000)
LAYER = tar(("model/weights.bin", WEIGHTS))
TREE = {"model/weights.bin": WEIGHTS}
LAYER_PATH = f"/blobs/sha256:{hashlib.sha256(LAYER).hexdigest()}"
MANIFEST = "/manifests/"
EVER = float("inf")
STALL, PATIENCE = 0.3, 1.0  # seconds
PLAIN = RegistryOptions(plain_http=True, stall_timeout=STALL, pull_timeout=20)


@dataclass(frozen=True)
class Node:
    """A node with a library of its own, which reaches the registry through the proxy."""

    root: Path
    proxy: FaultProxy
    options: RegistryOptions = PLAIN

    def open(self, tag: str = "v1") -> dict[str, bytes]:
        library = Library(self.root, SourceOptions({self.proxy.host: self.options}))
        return tree(library.open(RegistryReference(self.proxy.host, "team/kit", tag, None)).path)

    def check_recovery(self) -> None:
        """Check that nothing is half-made, and that a sound network brings the kit and nothing else."""
        check_store(self.root)
        self.proxy.calm()
        assert self.open() == TREE
        check_clean(self.root)

    def impatient(self) -> Node:
        """Return the same node with little time for a whole kit."""
        return replace(self, options=replace(self.options, pull_timeout=PATIENCE))

    def check_failure(self, error: type[KitserveError], match: str, within: float) -> None:
        """Check that the pull fails within some seconds, and says of which kit and why."""
        begun = time.monotonic()
        with pytest.raises(error, match=match) as raised:
            self.open()
        assert time.monotonic() - begun < within
        assert f"{self.proxy.host}/team/kit" in str(raised.value)


def fill(registry: Registry, directory: Path) -> None:
    builder = LayoutBuilder(directory / "layout")
    builder.kit("team/kit:v1", LAYER)
    builder.kit("team/kit:v2", tar(("model/weights.bin", WEIGHTS[::-1])))
    registry.push_layout(builder.directory)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has a kit with one large layer as team/kit:v1, and another as team/kit:v2."""
    directory = tmp_path_factory.mktemp("kits")
    with run_registry(directory / "registry") as running:
        fill(running, directory)
        yield running


@pytest.fixture
def proxy(kits: Registry) -> Iterator[FaultProxy]:
    with run_faults(kits.host) as running:
        yield running


@pytest.fixture
def node(tmp_path: Path, proxy: FaultProxy) -> Node:
    return Node(tmp_path / "node", proxy)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_a_layer_that_is_cut_goes_on_where_it_was(
    node: Node, proxy: FaultProxy, part: float, reset: bool
) -> None:
    offset = int(len(LAYER) * part)
    proxy.on(Fault(cut=offset, reset=reset), LAYER_PATH)
    assert node.open() == TREE
    check_clean(node.root)
    first, second = proxy.exchanges_for(LAYER_PATH)
    assert "Range" not in first.headers
    # Bytes that a reset took out of the kernel's buffers never arrived; the others are not sent again.
    kept = int(second.headers.get("Range", "bytes=0-")[6:-1])
    assert kept == offset or (reset and kept < offset)
    assert first.sent + second.sent == len(LAYER) + offset - kept


def test_a_layer_that_is_cut_often_is_sent_once(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(cut=70_000), LAYER_PATH, times=EVER)
    assert node.open() == TREE
    check_clean(node.root)
    assert len(proxy.exchanges_for(LAYER_PATH)) == -(-len(LAYER) // 70_000)
    assert proxy.sent(LAYER_PATH) == len(LAYER)


def test_cuts_after_next_to_nothing_end_a_pull_that_goes_on_later(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(cut=1000), LAYER_PATH, times=EVER)
    node.check_failure(RegistryUnavailable, "3 times, after 3000 bytes, which are kept; try again", within=2)
    node.check_recovery()
    assert proxy.exchanges_for(LAYER_PATH)[-1].headers["Range"] == "bytes=3000-"
    assert proxy.sent(LAYER_PATH) == len(LAYER)


def test_a_network_that_cuts_everything_is_given_up(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(cut=0), LAYER_PATH, times=EVER)
    node.impatient().check_failure(RegistryUnavailable, "try again", within=PATIENCE + 1)
    node.check_recovery()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    manifest=st.none() | st.integers(0, 900),
    kitfile=st.none() | st.integers(0, 600),
    layer=st.lists(st.integers(0, 500) | st.integers(0, len(LAYER) + 400), max_size=2),
    reset=st.booleans(),
)
def test_a_cut_at_any_byte_of_head_or_body(
    kits: Registry, manifest: int | None, kitfile: int | None, layer: list[int], reset: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory, run_faults(kits.host) as proxy:
        for path, cuts in ((LAYER_PATH, layer), (MANIFEST, [manifest]), ("/blobs/", [kitfile])):
            for cut in cuts:
                if cut is not None:
                    proxy.on(Fault(cut=cut, whole=True, reset=reset), path)
        node = Node(Path(directory), proxy)
        assert node.open() == TREE
        check_clean(node.root)


@pytest.mark.parametrize("path", [MANIFEST, LAYER_PATH])
@pytest.mark.parametrize(("offset", "whole"), [(0, True), (30, True), (0, False), (300, False)])
def test_a_stall_is_broken_off_and_continued(
    node: Node, proxy: FaultProxy, path: str, offset: int, whole: bool
) -> None:
    proxy.on(Fault(stall=offset, whole=whole), path)
    begun = time.monotonic()
    assert node.open() == TREE
    assert STALL <= time.monotonic() - begun < STALL + 3
    check_clean(node.root)
    assert proxy.sent(LAYER_PATH) == len(LAYER)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(stall=0, whole=True),
        Fault(stall=30, whole=True),
        Fault(stall=0),
        Fault(rate=40, whole=True),
        Fault(rate=100),
    ],
    ids=["no head", "half a head", "no body", "slow head", "slow body"],
)
def test_a_stall_for_ever_ends_in_time(node: Node, proxy: FaultProxy, fault: Fault) -> None:
    proxy.on(fault, LAYER_PATH, times=EVER)
    node.impatient().check_failure(RegistryUnavailable, "try again", within=PATIENCE + 1)
    node.check_recovery()


def test_a_manifest_that_drips_ends_in_time(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(rate=50), MANIFEST, times=EVER)
    node.impatient().check_failure(RegistryUnavailable, "try again", within=PATIENCE + 1)
    node.check_recovery()


def test_a_slow_layer_is_not_a_stall(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(rate=700_000), LAYER_PATH)
    assert node.open() == TREE
    assert len(proxy.exchanges_for(LAYER_PATH)) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(node: Node, proxy: FaultProxy, status: int) -> None:
    proxy.on(Fault(says(status)), LAYER_PATH)
    assert node.open() == TREE
    refused, served = (exchange.timestamp for exchange in proxy.exchanges_for(LAYER_PATH))
    assert 0.2 <= served - refused < 0.5


def test_each_wait_is_twice_the_one_before(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(says(503)), MANIFEST, method="HEAD", times=2)
    assert node.open() == TREE
    first, second, third = [exchange.timestamp for exchange in proxy.exchanges_for(MANIFEST, "HEAD")][:3]
    assert 0.2 <= second - first < 0.5
    assert 0.4 <= third - second < 0.9


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_that_last_end_in_time(node: Node, proxy: FaultProxy, status: int) -> None:
    proxy.on(Fault(says(status)), LAYER_PATH, times=EVER)
    node.impatient().check_failure(RegistryUnavailable, rf"answered {status}", within=PATIENCE + 1)
    assert 2 <= len(proxy.exchanges_for(LAYER_PATH)) <= 3
    node.check_recovery()


def in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(
    ("status", "retry_after", "minimum", "maximum"),
    [
        (429, lambda: "1", 1.0, 2.0),
        (503, lambda: "1", 1.0, 2.0),
        (429, in_two_seconds, 0.9, 3.0),
        (503, lambda: "Wed, 21 Oct 2015 07:28:00 GMT", 0.1, 1.0),
        (429, lambda: "soon", 0.1, 1.0),
        (429, lambda: "-5", 0.1, 1.0),
    ],
    ids=["seconds", "seconds of 503", "date", "past date", "garbage", "negative"],
)
def test_a_registry_says_when_to_come_again(
    node: Node, proxy: FaultProxy, status: int, retry_after: Callable[[], str], minimum: float, maximum: float
) -> None:
    proxy.on(Fault(says(status, Retry_After=retry_after())), LAYER_PATH)
    assert node.open() == TREE
    refused, served = (exchange.timestamp for exchange in proxy.exchanges_for(LAYER_PATH))
    assert minimum <= served - refused < maximum


@pytest.mark.parametrize("retry_after", ["1000000000", "inf", "nan", "9" * 400])
def test_a_wait_beyond_the_deadline_is_not_begun(node: Node, proxy: FaultProxy, retry_after: str) -> None:
    proxy.on(Fault(says(429, Retry_After=retry_after)), LAYER_PATH, times=EVER)
    node.impatient().check_failure(RegistryUnavailable, "answered 429", within=PATIENCE + 1)
    node.check_recovery()


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, RegistryUnavailable), (403, Unauthorized), (404, NotFound), (410, None), (418, None)],
)
@pytest.mark.parametrize("path", [MANIFEST, LAYER_PATH])
def test_permanent_failures_are_not_retried(
    node: Node, proxy: FaultProxy, path: str, status: int, error: type[KitserveError] | None
) -> None:
    method = "HEAD" if path == MANIFEST else "GET"
    proxy.on(Fault(says(status)), path, method=method, times=EVER)
    node.check_failure(error or KitserveError, rf"answered {status}", within=1)
    assert len(proxy.exchanges_for(path, method)) == 1
    node.check_recovery()


def test_a_registry_without_head_is_asked_by_get(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(says(405)), MANIFEST, method="HEAD", times=EVER)
    assert node.open() == TREE


@pytest.mark.parametrize(
    ("path", "change", "error"),
    [
        (LAYER_PATH, flipped(0), DigestMismatch),
        (LAYER_PATH, flipped(-1), DigestMismatch),
        ("/blobs/", flipped(10), DigestMismatch),
        (MANIFEST, flipped(10), DigestMismatch),
        (LAYER_PATH, resized(-1), SizeMismatch),
        (LAYER_PATH, resized(1), SizeMismatch),
        (LAYER_PATH, resized(2_000_000), SizeMismatch),
        ("/blobs/", resized(-1), SizeMismatch),
        ("/blobs/", resized(1), SizeMismatch),
        (MANIFEST, resized(-1), SizeMismatch),
        (MANIFEST, resized(1), SizeMismatch),
        (LAYER_PATH, says(200), SizeMismatch),
        (LAYER_PATH, says(200, b"<html>Log in</html>"), SizeMismatch),
        (LAYER_PATH, claiming(-1), SizeMismatch),
        (LAYER_PATH, gzipped, RegistryUnavailable),
        (MANIFEST, gzipped, RegistryUnavailable),
    ],
)
def test_wrong_bytes_are_refused(
    node: Node, proxy: FaultProxy, path: str, change: Change, error: type[KitserveError]
) -> None:
    proxy.on(Fault(change), path, times=EVER)
    node.check_failure(error, "sha256:|encoded as 'gzip'", within=5)
    if error is not RegistryUnavailable:
        check_clean(node.root)
    node.check_recovery()


@pytest.mark.parametrize("path", [MANIFEST, "/blobs/", LAYER_PATH])
def test_chunks_without_a_length_are_taken(node: Node, proxy: FaultProxy, path: str) -> None:
    proxy.on(Fault(chunked), path, times=EVER)
    assert node.open() == TREE


def test_a_claim_of_more_is_a_cut(node: Node, proxy: FaultProxy) -> None:
    proxy.on(Fault(claiming(1)), LAYER_PATH, times=EVER)
    assert node.open() == TREE
    check_clean(node.root)


def multipart(answer: Answer) -> Answer:
    body = b"--x\r\nContent-Type: a/b\r\n\r\n" + answer.body + b"\r\n--x--\r\n"
    changed = replace(answer, body=body, length=len(body))
    return headed(Content_Type="multipart/byteranges; boundary=x", Content_Range="")(changed)


# Answers to a request for the rest of a layer. With the first group the pull must succeed.
ACCEPTED_RESTS = {
    "ignored": Fault(unranged=True),
    "refused": Fault(says(416)),
    "any total": Fault(headed(Content_Range=f"bytes 100000-{len(LAYER) - 1}/*")),
}
WRONG_RESTS = {
    "another start": Fault(headed(Content_Range=f"bytes 99999-{len(LAYER) - 1}/{len(LAYER)}")),
    "another end": Fault(headed(Content_Range=f"bytes 100000-{len(LAYER) - 2}/{len(LAYER)}")),
    "another total": Fault(headed(Content_Range=f"bytes 100000-{len(LAYER) - 1}/{len(LAYER) + 1}")),
    "garbage": Fault(headed(Content_Range="bytes")),
    "everything as a part": Fault(lambda answer: replace(answer, status=206), unranged=True),
    "multipart": Fault(multipart),
    "compressed": Fault(gzipped),
    "other content": Fault(lambda answer: replace(answer, body=bytes(len(answer.body)))),
}


@pytest.mark.parametrize("ranged", ACCEPTED_RESTS.values(), ids=ACCEPTED_RESTS)
def test_a_range_need_not_be_given(node: Node, proxy: FaultProxy, ranged: Fault) -> None:
    proxy.on(Fault(cut=100_000), LAYER_PATH)
    proxy.on(ranged, LAYER_PATH)
    assert node.open() == TREE
    check_clean(node.root)
    assert proxy.exchanges_for(LAYER_PATH)[1].headers["Range"] == "bytes=100000-"


@pytest.mark.parametrize("ranged", WRONG_RESTS.values(), ids=WRONG_RESTS)
def test_two_representations_are_never_mixed(node: Node, proxy: FaultProxy, ranged: Fault) -> None:
    proxy.on(Fault(cut=100_000), LAYER_PATH)
    proxy.on(ranged, LAYER_PATH, times=EVER)
    with suppress(RegistryUnavailable, DigestMismatch, SizeMismatch):
        assert node.impatient().open() == TREE
    node.check_recovery()


def test_a_redirect_is_followed_and_continued(node: Node, proxy: FaultProxy, kits: Registry) -> None:
    with run_faults(kits.host) as elsewhere:
        target = f"http://{elsewhere.host}/v2/team/kit{LAYER_PATH}"
        proxy.on(Fault(says(307, Location=target)), LAYER_PATH, times=EVER)
        elsewhere.on(Fault(cut=200_000))
        assert node.open() == TREE
        assert elsewhere.sent() == len(LAYER)
        assert proxy.sent(LAYER_PATH) == 0
        assert elsewhere.exchanges_for(LAYER_PATH)[1].headers["Range"] == "bytes=200000-"


def test_a_tag_that_moves_during_a_pull_changes_nothing(
    node: Node, proxy: FaultProxy, kits: Registry
) -> None:
    kits.retag("team/kit", "v1", "moving")

    def moved(answer: Answer) -> Answer:
        kits.retag("team/kit", "v2", "moving")
        return answer

    proxy.on(Fault(moved), MANIFEST, method="HEAD")
    assert node.open("moving") == TREE
    assert node.open("moving") == {"model/weights.bin": WEIGHTS[::-1]}
    check_clean(node.root)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    (tmp_path / "tokens").mkdir()
    with run_token_server(tmp_path / "tokens", public=("team/",)) as running:
        yield running


@pytest.fixture
def asking(tmp_path: Path, tokens: TokenServer) -> Iterator[Node]:
    """A node whose registry asks for tokens."""
    with run_registry(tmp_path / "asking", tokens=tokens) as registry:
        fill(registry, tmp_path)
        with run_faults(registry.host) as proxy:
            yield Node(tmp_path / "node", proxy, replace(PLAIN, token_hosts=(tokens.host,)))


def tokens_of_a_calm_pull(asking: Node, tokens: TokenServer) -> int:
    """Pull the kit on another node without faults. Return how many tokens that took."""
    assert replace(asking, root=asking.root.with_name("calm")).open() == TREE
    count = len(tokens.requests)
    tokens.requests.clear()
    asking.proxy.exchanges.clear()
    return count


@pytest.mark.parametrize("expires_in", [1, 300])
def test_a_token_that_expires_within_a_layer_is_renewed(
    asking: Node, tokens: TokenServer, expires_in: int
) -> None:
    count = tokens_of_a_calm_pull(asking, tokens)
    tokens.expires_in = 1
    tokens.changes = {"expires_in": expires_in}
    asking.proxy.on(Fault(rate=100_000, cut=220_000), LAYER_PATH)
    assert asking.open() == TREE
    exchanges = asking.proxy.exchanges_for(LAYER_PATH)
    first, second = (exchange for exchange in exchanges if exchange.status != 401)
    assert expires_in == 1 or 401 in [exchange.status for exchange in exchanges[exchanges.index(first) :]]
    assert second.headers["Range"] == "bytes=220000-"
    assert first.sent + second.sent == len(LAYER)
    assert len(tokens.requests) == count + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_in": None},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": 10**12},
        {"expires_in": "soon"},
        {"issued_at": "2015-10-21T07:28:00Z"},
        {"issued_at": "2099-10-21T07:28:00Z"},
        {"token": None},
        {"access_token": None},
    ],
    ids=str,
)
def test_what_a_token_server_says_of_time_breaks_nothing(
    asking: Node, tokens: TokenServer, changes: dict[str, object]
) -> None:
    count = tokens_of_a_calm_pull(asking, tokens)
    tokens.changes = changes
    assert asking.open() == TREE
    assert len(tokens.requests) == count


def test_a_token_server_that_fails_once_is_asked_again(asking: Node, tokens: TokenServer) -> None:
    count = tokens_of_a_calm_pull(asking, tokens)
    tokens.refusals.append(500)
    assert asking.open() == TREE
    assert [request.status for request in tokens.requests] == [500] + [200] * count


def test_a_refusal_after_a_new_token_is_final(asking: Node, tokens: TokenServer) -> None:
    count = tokens_of_a_calm_pull(asking, tokens)
    challenge = f'Bearer realm="{tokens.realm}",service="{tokens.service}"'
    asking.proxy.on(Fault(cut=100_000), LAYER_PATH)
    asking.proxy.on(Fault(says(401, WWW_Authenticate=challenge)), LAYER_PATH, times=EVER)
    asking.check_failure(Unauthorized, "answered 401", within=3)
    assert len(tokens.requests) <= count + 1
    asking.check_recovery()
