#!/usr/bin/env bash
# usage: node.sh NODE CONTAINERD_CONFIG CONTAINERD_SOCKET KUBELET [KUBELET_ARGUMENT...]
#
# The first process of a node, in its own mount, PID and cgroup namespaces. It mounts the cgroups that the
# node may see and runs containerd and the kubelet; when it ends, the kernel kills every process of every pod.
# No mount of the machine is changed: everything mounted here disappears with this process.
set -euo pipefail
node=$1 config=$2 socket=$3
shift 3

# Each cgroup v1 controller is mounted again. In a cgroup namespace this shows only the hierarchy below
# our own cgroup, in which an empty cgroup is created for the node.
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
    # A new cpuset has no CPUs, and the kernel refuses to add processes to such a one.
    for file in cpuset.cpus cpuset.mems; do
        if [ -f "$folder/$file" ]; then cat "$folder/$file" >"$folder/$node/$file"; fi
    done
done

# The state of runc and the sockets of its shims must not outlive the node.
mkdir -p /run/containerd
mount -t tmpfs run /run/containerd
mount --make-rshared /

containerd --config "$config" &
until [ -S "$socket" ]; do # the kubelet exits if the socket does not exist
    kill -0 $!
    sleep 0.1
done
"$@" &
# As PID 1 of the namespace, bash reaps orphans. It exits when either of the two exits.
wait -n -p exited
echo "process $exited of the node exited" >&2
exit 1
