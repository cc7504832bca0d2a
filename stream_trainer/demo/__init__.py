"""One command that shows the whole system on a real stream: broker, service, models, drift, metrics."""
