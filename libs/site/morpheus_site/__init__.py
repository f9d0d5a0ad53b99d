"""Builds the documentation that the gateway serves at `/docs`."""
