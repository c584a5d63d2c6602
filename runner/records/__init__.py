"""The records of runs: journals, run folders, and the history made of them."""
