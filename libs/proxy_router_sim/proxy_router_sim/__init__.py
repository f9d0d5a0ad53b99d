"""A simulated Morpheus proxy-router: the HTTP face of a consumer node over a small exact chain."""
