"""Questions put to the records: what works together, when did it turn, what is to be expected."""
