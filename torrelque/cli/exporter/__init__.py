"""The metrics for Prometheus, and the web server that serves them."""
