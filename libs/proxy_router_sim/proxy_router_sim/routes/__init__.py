"""Every route of the router that is simulated, by area."""
