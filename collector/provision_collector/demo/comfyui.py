"""A stand-in for ComfyUI, delivered by the demo's profile: answers ``/system_stats`` with what it is asked for.

Runs on the instance, on its own: standard library only.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os


class Page(http.server.BaseHTTPRequestHandler):
    models = "models"

    def do_GET(self) -> None:
        is_known = self.path == "/system_stats"
        body = json.dumps(system_stats(self.models) if is_known else {"error": "not found"}).encode()
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def system_stats(models: str) -> dict[str, object]:
    """What the real one says, as far as the profile looks at it, and the models that it sees."""
    names = sorted(name for _, _, found in os.walk(models) for name in found if name.endswith(".safetensors"))
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    device = {"name": "cpu", "type": "cpu", "index": 0, "vram_total": memory_bytes}  # as it says on a CPU
    return {"devices": [device], "models": names}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    port = arguments.parse_args().port
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever()
