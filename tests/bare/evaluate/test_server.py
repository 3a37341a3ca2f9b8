"""How a client takes what a server may do: be busy, hang up, refuse, fail, or be something else."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from longva_ray.evaluate.server import RefusedQuestion, Server

SCORED = {"best": 0, "scores": [{"logprob": -1.0}]}

ERROR = {"error": {"message": "there is no file /a.mp4"}}


class Handler(BaseHTTPRequestHandler):
    """Gives the answers of its server's list, one after another; None hangs up."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        answer = self.server.answers.pop(0)  # type: ignore[attr-defined]
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asked(server: ThreadingHTTPServer, *answers: Any, patience_s: float = 60.0) -> Any:
    server.answers = list(answers)  # type: ignore[attr-defined]
    with Server(f"http://127.0.0.1:{server.server_port}/v1/", patience_s=patience_s) as client:
        return client.score("tiny", [], 4, ["red"])


def test_a_server_that_is_busy_or_hangs_up_is_asked_again(answering: ThreadingHTTPServer) -> None:
    assert asked(answering, (503, ERROR), None, (200, SCORED)) == SCORED


@pytest.mark.parametrize("status", [400, 403, 404, 413])
def test_a_refusal_is_of_one_question(answering: ThreadingHTTPServer, status: int) -> None:
    with pytest.raises(RefusedQuestion, match=r"^there is no file /a\.mp4$"):
        asked(answering, (status, ERROR))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, ERROR), "wants a key: set"),
        ((500, "<html>oops"), "answers 500: 500 <html>oops"),
        ((503, ERROR), "did not answer for 0 s: there is no file"),
        (None, "did not answer for 0 s: "),
    ],
)
def test_what_ends_the_run(answering: ThreadingHTTPServer, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        asked(answering, answer, patience_s=0)
    assert not isinstance(raised.value, RefusedQuestion)


def test_another_kind_of_server_is_no_model(answering: ThreadingHTTPServer) -> None:
    listed = (200, {"data": [{"id": "a name"}]})
    for answers in (
        [(404, "Not Found")],
        [(200, "<html>hello")],
        [(200, {"data": []})],
        [listed, (404, {"detail": "Not Found"})],
        [listed, (200, {"id": "a name"})],
    ):
        answering.answers = list(answers)  # type: ignore[attr-defined]
        with (
            Server(f"http://127.0.0.1:{answering.server_port}") as client,
            pytest.raises(ValueError, match="is no server of this package"),
        ):
            client.model()
    answering.shutdown()
    answering.server_close()
    with (
        Server(f"http://127.0.0.1:{answering.server_port}") as client,
        pytest.raises(ValueError, match="no server answers at"),
    ):
        client.model()
