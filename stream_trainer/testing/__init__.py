"""Tools for tests, shipped for authors of plugins; product code never imports them."""
