"""One module a library under test; the module's name is the distribution's, `-` written `_`."""
