"""Proof that each probe catches what it should: libraries broken on purpose, and the kill table of the probes.

`mutations/<library, - as _>.py` holds MUTATIONS: (probe, reason code, what is wrong) -> a function without arguments
that breaks the library or torch in the process it runs in; MEND, where a release has a fault that the probes find,
mends it first.  Each runs in a child of its own, forked after the import;
its probe must then fail with that code.  `mutations/_change.py` has the usual ways to break a function.
"""
