"""What a training needs besides Kubernetes: cluster DNS, an S3 store with one bucket, and Prometheus."""

import json
import secrets
import socket
import sys
import urllib.error
import urllib.request

from .config import HERE
from .processes import start, wait_until_ready
from .tools import program

BUCKET = "cnclip"
REGION = "us-east-1"

http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of the testbed without a proxy, which could not reach them."""


def start_s3(testbed):
    """Starts versitygw, for which a bucket is a folder."""
    keys = s3_keys(testbed)
    (testbed.folder("s3") / BUCKET).mkdir(exist_ok=True)
    start(testbed, "s3", program("versitygw"), "--port", testbed.s3.removeprefix("http://"), "--region", REGION,
          "--quiet", "posix", testbed.root / "s3",
          env={"ROOT_ACCESS_KEY_ID": keys["accessKeyId"], "ROOT_SECRET_ACCESS_KEY": keys["secretAccessKey"]})


def wait_for_s3(testbed):
    """Waits until the S3 server answers requests."""
    wait_until_ready(testbed, "s3", lambda: answers(testbed.s3))


def s3_keys(testbed):
    """The S3 server's access keys, generated once for each testbed."""
    path = testbed.root / "s3-keys.json"
    if not path.exists():
        keys = {"accessKeyId": secrets.token_hex(10), "secretAccessKey": secrets.token_hex(20)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(keys))
    return json.loads(path.read_text())


def start_dns(testbed):
    """Starts CoreDNS, which resolves the names of Services and their pods and no others."""
    config = testbed.root / "Corefile"
    config.write_text(f"""cluster.local {{
  bind {testbed.address}
  errors
  kubernetes cluster.local {{
    kubeconfig {testbed.kubeconfig}
  }}
}}
""")
    start(testbed, "dns", program("coredns"), "-conf", config, "-quiet")


def wait_for_dns(testbed):
    """Waits until the DNS server accepts connections."""
    wait_until_ready(testbed, "dns", lambda: listens(testbed.address, 53))


def listens(address, port):
    """Whether something accepts TCP connections at an address."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def start_prometheus(testbed):
    """Starts Prometheus, which scrapes every annotated pod each two seconds, and its service discovery."""
    discovery = f"{testbed.loopback}:19091"
    start(testbed, "discovery", sys.executable, "-m", "testbed.discovery", discovery, f"https://{testbed.api_address}",
          testbed.root / "pki", env={"PYTHONPATH": str(HERE.parent)})
    config = testbed.root / "prometheus.json"
    config.write_text(json.dumps({"global": {"scrape_interval": "2s"}, "scrape_configs": [{
        "job_name": "pods", "http_sd_configs": [{"url": f"http://{discovery}", "refresh_interval": "2s"}]}]}))
    start(testbed, "prometheus", "prometheus", "--config.file", config,
          "--storage.tsdb.path", testbed.folder("prometheus"),
          "--web.listen-address", testbed.prometheus.removeprefix("http://"))


def wait_for_prometheus(testbed):
    """Waits until Prometheus is ready."""
    wait_until_ready(testbed, "prometheus", lambda: answers(f"{testbed.prometheus}/-/ready", expected_status=200))


def answers(url, expected_status=None):
    """Whether an HTTP server answers at a URL, with the expected status if one is given."""
    try:
        with http.open(url, timeout=2) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError:
        return False
    return expected_status in (None, status)
