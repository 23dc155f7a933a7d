"""Real processes, real servers, and whatever can happen to them; afterwards the ledgers are compared with the queue."""
