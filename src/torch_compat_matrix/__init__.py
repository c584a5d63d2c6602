"""Which version of which library really works in which PyTorch image, on which GPU.

The packages lie in folders of the checkout's root; here they have the one name under which they are installed, so that
nothing of this project answers to `runner`, `reports`, `probes` or `compat` in a user's environment.
"""
