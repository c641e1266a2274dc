from __future__ import annotations

from gateway.edge.haproxy import read_servers
from gateway.edge.placement import Placement, Pool
from gateway.edge.routes import Server

STATE = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight ...
5 gateway 1 gateway 127.0.0.1 2 0 1 1 9 1 0 0 0 0 0 0 - 8081 - 0 0 - - 0
7 slot0 1 w0 10.0.0.1 2 0 1 1 9 15 3 4 6 0 0 0 - 8001 - 0 0 - - 0
7 slot0 2 w1 127.0.0.1 0 5 1 1 9 1 0 0 14 0 0 0 - 1 - 0 0 - - 0
7 slot0 3 activator /run/wake.sock 2 0 1 1 9 1 0 0 0 0 0 0 - 0 - 0 0 - - 0
9 slot0.prefix 1 w0 10.0.0.1 2 0 1 1 9 1 0 0 0 0 0 0 - 8001 - 0 0 - - 0
9 slot0.prefix 2 w1 10.0.0.9 2 0 1 1 9 1 0 0 0 0 0 0 - 8009 - 0 0 - - 0
8 slot1 1 w0 127.0.0.1 0 5 1 1 9 1 0 0 14 0 0 0 - 1 - 0 0 - - 0
8 slot1 2 w1 10.0.0.2 0 0 1 1 9 1 0 0 6 0 0 0 - 8002 - 0 0 - - 0
8 slot1 3 activator /run/wake.sock 0 5 1 1 9 1 0 0 0 0 0 0 - 0 - 0 0 - - 0

"""


def test_servers_that_are_not_in_maintenance_take_calls_and_a_failed_check_is_not_maintenance() -> None:
    workers = {0: {0: Server("", "10.0.0.1", 8001)}, 1: {1: Server("", "10.0.0.2", 8002)}}
    assert read_servers(STATE) == (Placement(workers, frozenset({0})), Pool((2, 2)))


def test_an_answer_without_servers_is_an_empty_pool() -> None:
    assert read_servers("1\n# be_id\n\n") == (Placement({}), Pool(()))
