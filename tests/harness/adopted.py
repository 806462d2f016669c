"""A service that somebody else started and a run has taken as it is: it answers on another port than its profile says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision_agent.contract.parsing import to_json
from provision_agent.contract.plan import Ready, Service
from provision_agent.host.detach import Identity
from provision_agent.jobs.job import RunFolders
from provision_agent.services import launch
from provision_agent.services.files import ADOPTED, Order, ServiceFiles, Status

PROGRAM = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("listens", flush=True)
server.serve_forever()
"""


@contextmanager
def adopted(workspace: Path, answer: object) -> Iterator[Service]:
    """The service ``ui`` of *workspace*, a folder: it answers everything with *answer*; at its profile's port is nobody."""
    service = Service("ui", ("x",), ready=Ready(url="http://127.0.0.1:1/system_stats"))
    argv = [sys.executable, "-c", PROGRAM, json.dumps(answer)]
    stranger = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert stranger.stdout is not None and stranger.stdout.readline() == b"listens\n"
        workspace.mkdir(exist_ok=True)
        files = ServiceFiles("ui", RunFolders(str(workspace), ""))
        files.make_folder()
        launch.write_order(files, Order(service, ("x",), "/", {}, files.log_path, files.status_path))
        status = Status(ADOPTED, child=Identity.of(stranger.pid))
        Path(files.status_path).write_text(json.dumps(to_json(status)))
        yield service
    finally:
        stranger.kill()
        stranger.communicate(timeout=10)
