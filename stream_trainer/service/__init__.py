"""Connects: reads the configuration, builds the parts, runs the one endless loop."""
