"""The bus: names, connection, questions and answers, relay frames, permissions, streams."""
