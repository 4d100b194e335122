#!/usr/bin/env bash
# The first process of a node, inside mount, pid and cgroup namespaces of its own. It lays out the
# cgroups that the node may see, then runs containerd and the kubelet; when it ends, every pod ends.
# No mount of the machine is changed: what is mounted here is gone with this process.
# usage: node.sh NODE CONTAINERD_CONFIG CONTAINERD_SOCKET KUBELET [KUBELET_ARGUMENT...]
set -euo pipefail
node=$1 config=$2 socket=$3
shift 3

# Each controller of the machine's cgroup v1 is mounted again, which shows only the part below the
# group we are in, with one empty group for the node in it.
mount --make-rprivate /
umount --recursive /sys/fs/cgroup
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
cut -d: -f2 /proc/self/cgroup | grep . | while read -r controllers; do
    folder=/sys/fs/cgroup/${controllers#name=}
    mkdir -p "$folder"
    case $controllers in
        name=*) mount -t cgroup -o "none,$controllers" cgroup "$folder" ;;
        *) mount -t cgroup -o "$controllers" cgroup "$folder" ;;
    esac
    mkdir -p "$folder/$node"
    # A new cpuset is empty, and a process can't enter an empty one.
    for file in cpuset.cpus cpuset.mems; do
        if [ -f "$folder/$file" ]; then cat "$folder/$file" >"$folder/$node/$file"; fi
    done
done

# runc's state and the shims' sockets end with the node too.
mkdir -p /run/containerd
mount -t tmpfs run /run/containerd
mount --make-rshared /

containerd --config "$config" &
until [ -S "$socket" ]; do # the kubelet gives up at once where there is none
    kill -0 $!
    sleep 0.1
done
"$@" &
# This is pid 1 here: it takes in the orphans, and ends when either of the two ends.
wait -n -p gone
echo "process $gone of the node ended" >&2
exit 1
