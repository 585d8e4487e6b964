#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the virtual machine that dispatcher_test.py boots: runs the tests of /repo/tests/netns that it names.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp TPX_BPF=/usr/bin/tpx-bpf PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
TPX_TEST_SCALE=$(cat /repo/scale) python3 /repo/tests/netns/xdp_dispatcher_test.py $(cat /repo/arguments) 2>&1
echo "exit status $?"
poweroff -f
