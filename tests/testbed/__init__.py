"""A real one-node Kubernetes cluster on a bare Debian machine: etcd, the control plane, containerd and a kubelet,
with an S3 server and Prometheus.

Run as ``python3 -m testbed`` with ``packaging/`` and ``tests/`` on ``PYTHONPATH``. Only Python's standard library is
used. No process is stopped that the testbed did not start.
"""
