"""The verbs of `compat`, a module each: it loads what it needs, acts, reports and gives an exit status."""
