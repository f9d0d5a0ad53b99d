"""The HTTP edge of the Morpheus API Gateway."""

__version__ = "0.1.0"
