"""Tells Prometheus which pods to read, over its HTTP discovery: Debian's Prometheus can't ask Kubernetes itself.

Run as ``python3 -m bed.targets ADDRESS:PORT API PKI``. Keeps nothing: each question is put to the API server.
"""

import json
import ssl
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def targets(pods):
    """The pods that ask for it by the usual annotations prometheus.io/scrape, port and path."""
    for pod in pods:
        meta = pod["metadata"]
        wish = {key.removeprefix("prometheus.io/"): value for key, value in meta.get("annotations", {}).items()}
        if wish.get("scrape") == "true" and "podIP" in pod["status"]:
            labels = {"__metrics_path__": wish.get("path", "/metrics"),
                      "namespace": meta["namespace"], "pod": meta["name"]}
            yield {"targets": [f"{pod['status']['podIP']}:{wish.get('port', '80')}"], "labels": labels}


def serve(listen, api, pki):
    identity = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    identity.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=identity))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            with opener.open(f"{api}/api/v1/pods?fieldSelector=status.phase%3DRunning", timeout=5) as response:
                body = json.dumps(list(targets(json.load(response)["items"]))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """A line every two seconds would tell nothing."""

    address, port = listen.split(":")
    ThreadingHTTPServer((address, int(port)), Answer).serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:])
