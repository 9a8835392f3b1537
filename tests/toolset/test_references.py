import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from atropos_agent.errors import ToolError
from atropos_agent.toolset.arguments import ArgumentCheck
from atropos_agent.trajectory import Json, ToolSchema


class CountingServer(HTTPServer):
    """Counts connections, whatever is asked."""

    connections = 0

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Schema(BaseHTTPRequestHandler):
    """Serves a schema that everything fits."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer(("127.0.0.1", 0), Schema) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "place",
    [
        lambda url: {"$ref": url},
        lambda url: {"properties": {"a": {"$ref": f"{url}#/$defs/a"}}},
        lambda url: {"properties": {"a": {"anyOf": [{}, {"items": {"$dynamicRef": url}}]}}},
        lambda url: {"$id": url, "properties": {"a": {"$ref": "other"}}},
    ],
)
def test_a_remote_reference_is_refused_and_never_fetched(server: CountingServer, place):
    url = f"http://127.0.0.1:{server.server_port}/schema"
    with pytest.raises(ToolError, match=r"tool 't': parameters.*which is not a schema inside this one"):
        ArgumentCheck(ToolSchema("t", "", place(url)))
    assert server.connections == 0


def test_names_that_look_remote_are_resolved_inside_the_schema(server: CountingServer):
    url = f"http://127.0.0.1:{server.server_port}/schema"
    schema: dict[str, Json] = {
        "$schema": url,
        "$id": url,
        "$defs": {"n": {"type": "integer"}, "other": {"$id": "other", "$anchor": "s", "type": "string"}},
        "properties": {"a": {"$ref": f"{url}#/$defs/n"}, "b": {"$ref": "other"}, "c": {"$ref": "other#s"}},
    }
    assert ArgumentCheck(ToolSchema("t", "", schema)).problems({"a": "", "b": 1, "c": 2}) == [
        "argument 'a' must be integer, not string",
        "argument 'b' must be string, not integer",
        "argument 'c' must be string, not integer",
    ]
    assert server.connections == 0


def test_a_reference_in_data_is_not_followed(server: CountingServer):
    data: dict[str, Json] = {"$ref": f"http://127.0.0.1:{server.server_port}/"}
    schema: dict[str, Json] = {"properties": {"a": {"const": data, "default": data, "enum": [data]}}}
    check = ArgumentCheck(ToolSchema("t", "", schema))
    assert check.problems({"a": data}) == []
    assert len(check.problems({"a": {}})) == 1
    assert server.connections == 0
