#!/bin/sh
# Makes the folder `secrets` beside this file, and what is missing in it; repeated, it leaves what is there as it is.
# Needs the `morpheus` command: MORPHEUS says how it is called.
set -eu
cd "$(dirname "$0")"
morpheus="${MORPHEUS:-morpheus}"
umask 077

$morpheus secrets secrets \
  --router trial=http://proxy-router:8082 \
  --mongo-host mongodb-0.mongodb:27017,mongodb-1.mongodb:27017,mongodb-2.mongodb:27017 \
  --mongo-option tls=true --mongo-option tlsCAFile=/etc/morpheus/ca/ca.crt
$morpheus certificates secrets --server nats=nats-0.nats,nats-1.nats,nats-2.nats,localhost \
  --server mongodb=mongodb-0.mongodb,mongodb-1.mongodb,mongodb-2.mongodb,localhost
$morpheus nats-config --keys secrets/nats/keys.json --server-name "\$POD_NAME" --monitor 0.0.0.0:8222 \
  --tls-cert /etc/nats/tls.crt --tls-key /etc/nats/tls.key --tls-ca /etc/nats/ca.crt \
  --cluster morpheus --cluster-password-file secrets/nats/cluster-password \
  --route nats-0.nats:6222 --route nats-1.nats:6222 --route nats-2.nats:6222 > secrets/nats/cluster.conf
