"""What can be checked without a download; `tests/python tests/emoji -m unittest discover -s tests/emoji` runs it."""
