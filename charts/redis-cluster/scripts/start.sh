#!/bin/sh
# Starts the node of this pod: writes its ACL file and what differs from node to node, and becomes redis-server.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"
umask 077

number="${POD_NAME##*-}"
# For what runs in this pod: probes and the keeper do not depend on the Secret's passwords being the ones that are in effect.
head -c 32 /dev/urandom | sha256 | tr -d '\n' > "$RUN/keeper"
write_users > "$RUN/users.acl"
# A copy, which stays what is in effect until the keeper has told Redis of another.
copy_certificates "$RUN/tls"

hostname="$(sed -n "$((number + 1))p" "$CONFIG/hostnames")"
[ -n "$hostname" ] || die "there is no host name for node $number: external.hostnames needs one for each node"
escaped="$(secret admin-password password | sed 's/[\\"]/\\&/g')"
{
  cat "$CONFIG/redis.conf"
  echo "aclfile $RUN/users.acl"
  echo "dir $DATA"
  echo "masteruser admin"
  # Not echo: some shells' would read the backslashes.
  printf 'masterauth "%s"\n' "$escaped"
  echo "cluster-announce-ip $POD_IP"
  echo "cluster-announce-hostname $hostname"
  if [ "$TLS_ENABLED" = true ]; then
    echo "port 0"
    echo "tls-port $(port_of "$number")"
    echo "tls-ca-cert-file $RUN/tls/ca.crt"
    echo "tls-cert-file $RUN/tls/tls.crt"
    echo "tls-key-file $RUN/tls/tls.key"
  else
    echo "port $(port_of "$number")"
  fi
} > "$RUN/redis.conf"
exec redis-server "$RUN/redis.conf"
