"""Controls on a real GPU: faults planted on purpose, what each must come to, and what it came to.

`python3 -m tests.gpu FOLDER`, in a copy of the checkout, under an interpreter that holds torch; nothing else is needed.
"""
