"""Pip's answer for an image: the packages that a requirement adds, and the folder that holds them."""
