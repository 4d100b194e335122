"""``make demo``: trains and scores a small Chinese-CLIP on real pods, from packages alone to a report.

Run as ``python3 -m demo`` with ``tests/`` on the path. KEEP=1 leaves the cluster; CLUSTER=current uses one's own.
"""
