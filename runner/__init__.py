"""The host side: matrix.yaml to plan to launched images to recorded outcomes; never imports torch."""
