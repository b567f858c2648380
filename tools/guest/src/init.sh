#!/bin/busybox sh
# The first program of the guest: gets the machine ready, runs /run.sh with its output on the second serial port, tells how
# that ended in a last line, and switches the machine off.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/shm /dev/pts /tmp /root; mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /tmp
ln -s /proc/self/fd /dev/fd
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1
while read -r module; do insmod "/modules/$module.ko" || echo "guest: cannot load $module"; done </modules/list
ip link set lo up
/bin/sh /run.sh </dev/null
echo "guest: the script ended with $?"
sync
poweroff -f
