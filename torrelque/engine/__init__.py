"""What runs the core over a transport: the imperative shell of a queue object."""
