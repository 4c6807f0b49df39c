"""Fixtures shared by the tests of several layers."""

import html
import itertools
import json
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test uses the network


@pytest.fixture(scope="session")
def toysteer_base():
    """The folder of ToySteer's base policy."""
    from una_ref.training import toysteer_base

    return toysteer_base.toysteer_base()


@pytest.fixture
def browsed(tmp_path):
    """browsed(address): the text of a page after its scripts have run, in Chromium or Chrome without a window."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    browser = next(found, None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on this machine")

    def page(address):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser", "--dump-dom"]
        run = subprocess.run([browser, *flags, address], capture_output=True, text=True, timeout=240, check=True)
        return html.unescape(run.stdout)

    return page


@pytest.fixture
def loopback():
    """loopback(answer): a context with the URL of a server on this machine.

    answer(request, number) returns a body, or (status, body), for the number-th request; a body that is no text is
    written as JSON. A request has method, path, headers and body (bytes).
    """
    return _served


@contextmanager
def _served(answer):
    numbers = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            request = SimpleNamespace(method=self.command, path=self.path, headers=self.headers, body=body)
            said = answer(request, next(numbers))
            status, content = said if isinstance(said, tuple) else (200, said)
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # the client has gone
                self.close_connection = True

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def no_retries(monkeypatch):
    """Judges that are made from a name do not repeat a call."""
    from una_ref.policies.endpoint import Endpoint

    monkeypatch.setattr(Endpoint.__init__, "__kwdefaults__", Endpoint.__init__.__kwdefaults__ | {"retries": 0})
