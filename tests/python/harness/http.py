"""The HTTP API with nothing but the standard library: what `curl` would do."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple, Optional, Sequence, Union

from harness.waiting import DEADLINE_S


class Answer(NamedTuple):
    """Status code, and the body as JSON (text where it is none)."""

    status: int
    body: Any


class Http:
    """One server's HTTP API."""

    def __init__(self, base: str) -> None:
        self.base = base

    def request(self, method: str, path: str, body: Union[None, bytes, Any] = None) -> Answer:
        data = body
        headers = {}
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.base + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * DEADLINE_S) as response:
                return Answer(response.status, _parse(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _parse(error.read()))

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def mount(self, path: str, recipe: str, **more: Any) -> Answer:
        answer = self.request("PUT", f"/v1/mounts{path}", {"recipe": recipe, **more})
        assert answer.status in (200, 201), answer
        return answer

    def session(self, timeout_ms: int = 30_000) -> "HttpSession":
        answer = self.request("POST", "/v1/sessions", {"timeout_ms": timeout_ms})
        assert answer.status == 201, answer
        return HttpSession(self, answer.body["session"], answer.body["timeout_ms"])


class HttpSession:
    """A session opened over HTTP."""

    def __init__(self, http: Http, token: str, timeout_ms: int) -> None:
        self.http, self.token, self.timeout_ms = http, token, timeout_ms
        self.path = "/v1/sessions/" + urllib.parse.quote(token, safe="")

    def call(
        self,
        key: int,
        mount: str,
        operation: str,
        arguments: Union[Sequence[Any], dict],
        wait_ms: int = 10_000,
        timeout_ms: Optional[int] = None,
        acknowledge: int = 0,
        awaited: Sequence[int] = (),
    ) -> Answer:
        body = {
            "mount": mount,
            "operation": operation,
            "arguments": arguments,
            "wait_ms": wait_ms,
            "timeout_ms": timeout_ms,
            "acknowledge": {"mark": acknowledge, "awaited": list(awaited)},
        }
        return self.http.request("PUT", f"{self.path}/calls/{key}", body)

    def cancel(self, key: int) -> Answer:
        return self.http.request("DELETE", f"{self.path}/calls/{key}")

    def acknowledge(self, mark: int, awaited: Sequence[int] = ()) -> Answer:
        body = {"mark": mark, "awaited": list(awaited)}
        return self.http.request("POST", f"{self.path}/acknowledge", body)

    def keep_alive(self) -> Answer:
        return self.http.request("POST", f"{self.path}/keep-alive")

    def close(self) -> Answer:
        return self.http.request("DELETE", self.path)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
