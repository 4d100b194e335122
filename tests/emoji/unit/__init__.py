"""Tests that download nothing: `packaging/python tests/emoji -m unittest discover -s tests/emoji`."""
