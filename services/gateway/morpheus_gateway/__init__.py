"""The HTTP edge of the Morpheus API Gateway."""
