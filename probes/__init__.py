"""Runs inside the image: the standard library and the library under test, nothing else; Python 3.9 and newer."""
