"""Several servers as one ensemble, on loopback."""

import re
from pathlib import Path
from typing import List, Optional

from harness.links import Links
from harness.servers import QuorateServer, free_port
from harness.waiting import until


class Member(QuorateServer):
    """One server of an ensemble."""

    def __init__(
        self, directory: Path, number: int, peers: List[str], data_dir: Optional[Path] = None
    ) -> None:
        super().__init__(directory, data_dir)
        self.number = number
        own = next(peer for peer in peers if peer.startswith(f"{number}="))
        #: Where the others reach it, host:port.
        self.peer = own.split("=")[1].removesuffix(":observer")
        self.options += ["--id", str(number)]
        for peer in peers:
            self.options += ["--peer", peer]

    def mode(self) -> Optional[str]:
        """leader, follower or observer; none if it does not serve."""
        try:
            found = re.search(r"Mode: (\w+)", self.four_letter_word("srvr", timeout_s=0.5))
        except OSError:
            return None
        return found and found.group(1)

    def ended(self) -> bool:
        """Whether its process has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def failure(self) -> str:
        """Why it is not well; empty if it is, or does not answer."""
        try:
            answer = self.http.request("GET", "/health")
        except OSError:
            return ""
        return answer.body["reason"] if answer.status == 503 else ""


class Ensemble:
    """Servers 1 to ``voters``, and observers behind them.

    With ``linked``, what they say to each other goes through ``links``, where it can be cut.
    """

    def __init__(
        self, directory: Path, voters: int = 3, observers: int = 0, linked: bool = False
    ) -> None:
        ports = [free_port() for _ in range(voters + observers)]
        peers = [f"{number}=127.0.0.1:{port}" for number, port in enumerate(ports, 1)]
        for number in range(voters, voters + observers):
            peers[number] += ":observer"
        self.servers = [
            Member(directory / f"server-{number}", number, peers)
            for number in range(1, len(ports) + 1)
        ]
        self.links: Optional[Links] = None
        if linked:
            behind = {server.number: free_port() for server in self.servers}
            for server in self.servers:
                server.options += ["--peer-listen", f"127.0.0.1:{behind[server.number]}"]
            self.links = Links(dict(enumerate(ports, 1)), behind)

    def start(self) -> "Ensemble":
        try:
            for server in self.servers:
                server.start_only()
            for server in self.servers:
                until(server.serves, f"server {server.number} serves; its log:\n{server.log[-2000:]}")
        except BaseException:
            self.kill()
            raise
        return self

    def joining(self, directory: Path) -> Member:
        """A server that is to be added, not started."""
        number = max(server.number for server in self.servers) + 1
        peers = [f"{number}=127.0.0.1:{free_port()}"]
        server = Member(directory / f"server-{number}", number, peers)
        server.options.append("--join")
        return server

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def close(self) -> None:
        """Ends everything, the links too."""
        self.kill()
        if self.links:
            self.links.close()

    def leader(self, of: Optional[List[Member]] = None) -> Member:
        """Whoever leads, once somebody does: of all, or of those servers."""

        def find() -> Optional[Member]:
            servers = self.servers if of is None else of
            leaders = [server for server in servers if server.process and server.mode() == "leader"]
            return leaders[0] if leaders else None

        return until(find, "one of the servers leads")

    def others(self, than: Member) -> List[Member]:
        return [server for server in self.servers if server is not than]

    @property
    def log(self) -> str:
        return "\n".join(f"-- server {s.number}:\n{s.log[-1500:]}" for s in self.servers)
