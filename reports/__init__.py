"""Reads recorded outcomes and writes tables; never launches anything."""
