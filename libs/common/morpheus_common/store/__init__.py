"""MongoDB: connection, transactions, leases, outbox, indexes."""
