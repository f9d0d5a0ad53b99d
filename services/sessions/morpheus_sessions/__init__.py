"""The sessions service: everything that touches a proxy-router, and the only part that knows one."""
