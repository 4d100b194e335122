"""A real one-node Kubernetes on a bare Debian machine: etcd, the control plane, containerd and a kubelet,
with an S3 server and Prometheus beside them.

Run as ``python3 -m bed`` with ``tests/`` on the path. It uses Python's standard library only, and ends
nothing that it did not start.
"""
