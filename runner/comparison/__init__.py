"""Two sides and one verdict; how far a failure was confirmed; whether an image may go on."""
