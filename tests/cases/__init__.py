"""Small cases as a user runs them: a folder each, with matrix.yaml and case.yaml (test_cases.py says what it holds)."""
