"""The Ray Serve shells around `ssd_core`."""
