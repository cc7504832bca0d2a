"""The learning core: where batches end, what a step is, what is remembered. No I/O, no clock of its own."""
