"""What the outside may see: one Prometheus endpoint, two probes. It reads the trainer's reports and steers nothing."""
