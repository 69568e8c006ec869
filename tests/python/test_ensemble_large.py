"""What touches very many things at once, at three servers (rule S6)."""

import pytest

from harness import wire as w
from harness.load import Load, all_agree, connect, sync

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

EPHEMERALS = 100_000
IN_ONE_MULTI = 2_000


@pytest.mark.parametrize("how", ["it is closed", "its client is silent"])
def test_s6_a_session_with_a_hundred_thousand_ephemerals_ends_in_one_transaction_everywhere(ensemble, how):
    leader = ensemble.leader()
    near, far = ensemble.others(leader)
    timeout_ms = 30_000 if how == "it is closed" else 4_000
    owner = connect(near, timeout_ms=timeout_ms)
    owner.create("/crowd")
    for first in range(0, EPHEMERALS, IN_ONE_MULTI):
        names = [f"/crowd/{number:06d}" for number in range(first, first + IN_ONE_MULTI)]
        owner.multi([(w.CREATE, w.create_body(name, b"", flags=w.EPHEMERAL)) for name in names])
    watching = [connect(server) for server in ensemble.servers]
    for client in watching:
        sync(client)
        assert client.exists("/crowd", watch=True).num_children == EPHEMERALS
        assert client.exists("/crowd/000000", watch=True) is not None
        assert client.exists("/crowd/099999", watch=True) is not None
        client.send(w.GET_CHILDREN, w.path_watch("/crowd", watch=True))
        client.receive()
    load = Load([leader, far])
    if how == "it is closed":
        owner.close_session()
    ends = set()
    for client in watching:
        events = [client.wait_event(number + 1) for number in range(3)]
        assert {event.path for event in events} == {"/crowd", "/crowd/000000", "/crowd/099999"}
        stat = client.exists("/crowd")
        assert stat.num_children == 0
        ends.add(stat.pzxid)
    # Nobody has seen a part of it, and the others' writes went on.
    assert len(ends) == 1, ends
    load.progress()
    load.end()
    all_agree(ensemble)
