#!/bin/sh
# What the official image's entrypoint does with these variables: makes the database at the first start, then becomes what it was given.
set -eu
PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
export PATH
[ "${1:-}" = postgres ] || exec "$@"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    password="${POSTGRES_PASSWORD:-}"
    [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password="$(cat "$POSTGRES_PASSWORD_FILE")"
    [ -n "$password" ] || { echo "error: POSTGRES_PASSWORD is not set" >&2; exit 1; }
    umask 077
    printf '%s\n' "$password" >/tmp/pwfile
    # shellcheck disable=SC2086 # options are words
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/pwfile --encoding=UTF8 --locale=C.UTF-8 ${POSTGRES_INITDB_ARGS:-}
    rm /tmp/pwfile
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    # By its socket only, so that nobody takes it for ready.
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    if [ "$POSTGRES_DB" != postgres ]; then
        PGPASSWORD="$password" psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --dbname postgres \
            --command "CREATE DATABASE \"$POSTGRES_DB\""
    fi
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
