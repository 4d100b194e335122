"""HTTP service discovery for Prometheus: Debian's build of it is compiled without discovery of Kubernetes pods.

Run as ``python3 -m testbed.discovery ADDRESS:PORT API_URL PKI_FOLDER``. Stateless: every request lists the pods again.
"""

import json
import ssl
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANNOTATION_PREFIX = "prometheus.io/"


def scrape_targets(pods):
    """The targets of pods with an address that are annotated ``prometheus.io/scrape: "true"``, by port and path."""
    for pod in pods:
        metadata = pod["metadata"]
        annotations = {key.removeprefix(ANNOTATION_PREFIX): value
                       for key, value in metadata.get("annotations", {}).items() if key.startswith(ANNOTATION_PREFIX)}
        if annotations.get("scrape") == "true" and "podIP" in pod["status"]:
            labels = {"__metrics_path__": annotations.get("path", "/metrics"),
                      "namespace": metadata["namespace"], "pod": metadata["name"]}
            yield {"targets": [f"{pod['status']['podIP']}:{annotations.get('port', '80')}"], "labels": labels}


def serve(listen, api_url, pki):
    """Answers every GET request with the scrape targets of the running pods."""
    identity = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    identity.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=identity))
    pods_url = f"{api_url}/api/v1/pods?fieldSelector=status.phase%3DRunning"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with opener.open(pods_url, timeout=5) as response:
                body = json.dumps(list(scrape_targets(json.load(response)["items"]))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Prometheus asks every two seconds; an access log would only grow."""

    address, port = listen.split(":")
    ThreadingHTTPServer((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:])
