#!/bin/sh
# Beside the node: what Redis does not do by itself. Reads passwords and certificates again when their files change, and finds nodes
# whose addresses have changed (all of them at once, after a power cut), which a Redis Cluster does not.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"
umask 077
trap 'exit 0' TERM INT

use_certificates() {
  ask_here CONFIG SET tls-ca-cert-file "$1/ca.crt" tls-cert-file "$1/tls.crt" tls-key-file "$1/tls.key" | grep -qx OK
}

reload() {
  write_users > "$RUN/users.acl.new"
  mv "$RUN/users.acl.new" "$RUN/users.acl"
  ask_here ACL LOAD | grep -qx OK || { say "the ACL file was refused: $(ask_here ACL LOAD)"; return 1; }
  secret admin-password password | ask_here -x CONFIG SET masterauth | grep -qx OK || return 1
  [ "$TLS_ENABLED" = true ] || return 0
  copy_certificates "$RUN/tls.new"
  use_certificates "$RUN/tls.new" || { say "the new certificate was refused: does the key belong to it?"; return 1; }
  rm -rf "$RUN/tls"
  mv "$RUN/tls.new" "$RUN/tls"
  use_certificates "$RUN/tls"
}

meet() {
  nodes="$(ask_here CLUSTER NODES)" || return 0
  # A node of its own: the Job has not been here yet.
  [ "$(echo "$nodes" | grep -c .)" -gt 1 ] || return 0
  # How many there are to be: without a restart, since it is a mounted file.
  count="$(grep -c . "$CONFIG/hostnames")"
  i=0
  while [ "$i" -lt "$count" ]; do
    address="$(address_of "$i")"
    # "address:port@bus" of a node that answers.
    if [ -n "$address" ] && ! echo "$nodes" | grep -F " $address:$(port_of "$i")@" | grep -q -e ' connected' -e myself; then
      say "node $i is at $address: telling the cluster"
      ask_here CLUSTER MEET "$address" "$(port_of "$i")" >/dev/null || true
    fi
    i=$((i + 1))
  done
}

known="$(fingerprint)"
while :; do
  # In the background, so that a signal is heard at once.
  sleep "${KEEP_SECONDS:-5}" & wait $! || true
  ask_here PING 2>/dev/null | grep -qx PONG || continue
  now="$(fingerprint)"
  if [ "$now" != "$known" ] && reload; then
    known="$now"
    say "passwords and certificates were read again"
  fi
  meet
done
