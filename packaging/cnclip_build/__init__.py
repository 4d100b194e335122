"""Builds the project's programs and packs them into OCI images, with and without CUDA.

Run as ``python3 -m cnclip_build`` with ``packaging/`` on ``PYTHONPATH``. Only Python's standard library is used.
"""
