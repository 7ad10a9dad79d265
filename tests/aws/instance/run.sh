#!/bin/bash
# One instance, in namespaces of its own: runs user data with this machine's files under disks that only it writes to, and ends with
# its service. Killing it is pulling its plug.
#
#   unshare --mount --pid --fork --kill-child --mount-proc run.sh DIRECTORY USER-DATA
#
# Standing in for what an instance has and this machine has not: systemctl, dnf, the log agent.
set -euo pipefail
export INSTANCE_DIR=$1
data=$2

mkdir -p "$INSTANCE_DIR/disk"
mount -t tmpfs disk "$INSTANCE_DIR/disk"
for part in etc opt usr/local var; do
    disk=$INSTANCE_DIR/disk/$part
    mkdir -p "$disk/upper" "$disk/work"
    mount -t overlay overlay -o "lowerdir=/$part,upperdir=$disk/upper,workdir=$disk/work" "/$part"
done
PATH=$(cd "$(dirname "$0")" && pwd)/bin:$PATH
export PATH

bash "$data" >"$INSTANCE_DIR/boot.log" 2>&1
touch "$INSTANCE_DIR/booted"
# The file is written when the machine's main service has ended.
while [ ! -e "$INSTANCE_DIR/ended" ]; do sleep 0.1; done
