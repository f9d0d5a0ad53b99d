"""Everything that touches a proxy-router."""
