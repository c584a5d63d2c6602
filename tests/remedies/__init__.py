"""The proof of the remedies: each is applied to the failure that it was given for."""
