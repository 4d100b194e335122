"""What can be checked without a download; `tests/emoji/python -m unittest discover -s tests/emoji` runs it."""
