"""What a training needs beside Kubernetes: names, an S3 store with one bucket, and Prometheus reading the pods."""

import json
import secrets
import socket
import sys
import urllib.error
import urllib.request

from .place import HERE
from .processes import start, wait_ready
from .tools import program

BUCKET = "cnclip"
REGION = "us-east-1"


def start_s3(bed):
    """A bucket is a folder of versitygw's."""
    keys = s3_keys(bed)
    (bed.folder("s3") / BUCKET).mkdir(exist_ok=True)
    start(bed, "s3", program("versitygw"), "--port", bed.s3.removeprefix("http://"), "--region", REGION,
          "--quiet", "posix", bed.root / "s3",
          env={"ROOT_ACCESS_KEY_ID": keys["accessKeyId"], "ROOT_SECRET_ACCESS_KEY": keys["secretAccessKey"]})


def await_s3(bed):
    wait_ready(bed, "s3", lambda: answers(bed.s3))


def s3_keys(bed):
    """The store's keys, drawn once for each bed."""
    path = bed.root / "s3-keys.json"
    if not path.exists():
        keys = {"accessKeyId": secrets.token_hex(10), "secretAccessKey": secrets.token_hex(20)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(keys))
    return json.loads(path.read_text())


def start_dns(bed):
    """Answers for the names of services and their pods, as every cluster does, and for no others."""
    config = bed.root / "Corefile"
    config.write_text(f"""cluster.local {{
  bind {bed.address}
  errors
  kubernetes cluster.local {{
    kubeconfig {bed.kubeconfig}
  }}
}}
""")
    start(bed, "dns", program("coredns"), "-conf", config, "-quiet")


def await_dns(bed):
    wait_ready(bed, "dns", lambda: listens(bed.address, 53))


def listens(address, port):
    """Whether something takes connections there."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def start_prometheus(bed):
    """Reads, every two seconds, each pod that asks for it by annotation."""
    discovery = f"{bed.loopback}:19091"
    start(bed, "targets", sys.executable, "-m", "bed.targets", discovery, f"https://{bed.api_address}",
          bed.root / "pki", env={"PYTHONPATH": str(HERE.parent)})
    config = bed.root / "prometheus.json"
    config.write_text(json.dumps({"global": {"scrape_interval": "2s"}, "scrape_configs": [{
        "job_name": "pods", "http_sd_configs": [{"url": f"http://{discovery}", "refresh_interval": "2s"}]}]}))
    start(bed, "prometheus", "prometheus", "--config.file", config, "--storage.tsdb.path", bed.folder("prometheus"),
          "--web.listen-address", bed.prometheus.removeprefix("http://"))


def await_prometheus(bed):
    wait_ready(bed, "prometheus", lambda: answers(f"{bed.prometheus}/-/ready", expect=200))


def answers(url, expect=None):
    """Whether something speaks HTTP at the address, with the expected status if one is given."""
    try:
        with direct.open(url, timeout=2) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError:
        return False
    return expect in (None, status)


direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of the bed, which no proxy can reach."""
