#!/bin/sh
# Makes the users and secrets of docker-compose.yml at its first start; later starts find them. They are complete when the
# file "made" is there, and nothing that reads them starts before. Each reader has a folder of its own that others cannot read.
#
#   init.sh SECRETS FOLDER...     the folders are given to farebeat
set -eu
umask 077
secrets=$1
shift

secret() { # 192 random bits, as hex
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

if [ ! -e "$secrets/made" ]; then
  rm -rf "$secrets/farebeat" "$secrets/influxdb" "$secrets/grafana"
  mkdir -p "$secrets/farebeat" "$secrets/influxdb" "$secrets/grafana"
  cd "$secrets"
  for user in city:simulator boss:admin ops:operator wall:viewer; do
    farebeat users add "${user%:*}" --role "${user#*:}" --file farebeat/users >"farebeat/${user%:*}.password"
  done
  for user in admin farebeat grafana; do
    secret >"influxdb/$user.password"
  done
  printf 'farebeat:%s\n' "$(cat influxdb/farebeat.password)" >farebeat/influx.token
  cp influxdb/grafana.password grafana/influxdb.password
  secret >grafana/admin.password
  sync
  : >made
fi

if [ "$(id -u)" = 0 ]; then # as in the container
  chmod 755 "$secrets"
  chown -R 10001:10001 "$secrets/farebeat" "$@" # as the Dockerfile says
  chown -R 472:0 "$secrets/grafana"             # as Grafana's image runs
fi
