#!/bin/sh
# HAProxy as Ray Serve starts it, but without kernel splicing: see serve_environment.py.
exec "$SSD_HAPROXY_BINARY" -dS "$@"
