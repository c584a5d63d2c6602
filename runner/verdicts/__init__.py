"""Observation -> verdict: reasons, the rules that find them, and what is foreseen before a launch; pure functions."""
