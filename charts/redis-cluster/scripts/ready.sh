#!/bin/sh
# Readiness: it serves. A replica that is not in step is not ready, so that a rolling update waits for it before it takes its master.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"
[ "$(ask_here PING)" = PONG ]
cluster="$(ask_here CLUSTER INFO)"
# Not yet in a cluster: the Job wants to reach it.
[ "$(echo "$cluster" | field cluster_known_nodes)" -gt 1 ] || exit 0
[ "$(echo "$cluster" | field cluster_state)" = ok ]
replication="$(ask_here INFO replication)"
[ "$(echo "$replication" | field role)" = master ] || [ "$(echo "$replication" | field master_link_status)" = up ]
