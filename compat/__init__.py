"""The faces: the command line and the pytest plugin, over one workflow."""
