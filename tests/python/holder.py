"""Holds a lock until it is killed: `holder.py HOSTS MOUNT NAME SESSION_SECONDS`. Says `held` once it does."""

import sys
import threading

from kazoo.client import KazooClient
from quorate import Recipes

hosts, mount, name, session_s = sys.argv[1:]
zk = KazooClient(hosts=hosts, timeout=float(session_s))
zk.start()
grant = Recipes(zk).call(mount, "acquire", name)
print(f"held {grant['token']}", flush=True)
threading.Event().wait()
