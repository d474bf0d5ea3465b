#!/bin/sh
# HAProxy as Ray Serve starts it, but without kernel splicing (see serve_environment.py), with an admin
# socket for its own user alone, and with errors in OpenAI's shape. Where SSD_HAPROXY_INTERNAL_HOST is
# set, the pages of statistics and metrics listen there instead of on all interfaces.
is_file=
for word in "$@"; do
    if [ "$is_file" ]; then
        sed -i 's/^\( *stats socket .* mode \)666 /\1600 /' "$word"
        if ! grep -q '^ *http-error ' "$word"; then
            sed -i -e '/^ *errorfile /d' \
                -e 's|content-type text/plain lf-string "Path.*"|content-type application/json string '"'"'{"error":{"message":"there is no such route","type":"not_found_error","param":null,"code":null}}'"'"'|' \
                -e "/^defaults\$/r $(dirname "$0")/haproxy-errors.cfg" "$word"
        fi
        if [ "$SSD_HAPROXY_INTERNAL_HOST" ]; then
            sed -i "s/^\( *bind \)\*\{0,1\}:/\1$SSD_HAPROXY_INTERNAL_HOST:/" "$word"
        fi
    fi
    is_file=
    if [ "$word" = -f ]; then is_file=1; fi
done
exec "$SSD_HAPROXY_BINARY" -dS "$@"
