"""matrix.yaml -> Plan: read, checked, expanded, selected; nothing is launched, and no file but those named is read."""
