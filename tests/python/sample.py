"""The sample that this project began with, line by line, against localhost:2181.

`test_sample.py` runs it as it stands if that port is free, and with the port replaced otherwise.
"""

import sys
import threading

from kazoo.client import KazooClient

seen = []
changed = threading.Condition()

zk = KazooClient(hosts='localhost:2181'); zk.start(); config_path = "/my_app/config"
if not zk.exists(config_path): zk.create(config_path, b"initial_config_data")
data, stat = zk.get(config_path)
assert data == b"initial_config_data", data


@zk.DataWatch(config_path)
def watch_node(data, stat):
    with changed:
        seen.append((data, stat and stat.version))
        changed.notify_all()


def wait_for(count):
    with changed:
        assert changed.wait_for(lambda: len(seen) >= count, 20), seen


wait_for(1)
zk.set(config_path, b"updated_config_data")
wait_for(2)
if "--delete" in sys.argv:
    zk.delete(config_path)
    wait_for(3)
zk.stop()
print(seen)
