"""Decides when a session is opened, renewed or left to end."""
