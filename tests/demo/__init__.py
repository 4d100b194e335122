"""``make demo``: trains and evaluates a small Chinese-CLIP in pods, from published packages to a report.

Run as ``python3 -m demo`` with ``packaging/`` and ``tests/`` on ``PYTHONPATH``. ``KEEP=1`` keeps the cluster running
afterwards; ``CLUSTER=current`` uses the cluster of the current kubeconfig.
"""
