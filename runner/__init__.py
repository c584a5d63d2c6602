"""From matrix.yaml to recorded outcomes: everything except the faces and the reports."""

__version__ = "0.1.0"
