/** The path in the guest of the folder that it shares with the harness, for reading and writing. */
export const SHARE_IN_GUEST = '/run/godwit';
/** Files in the share: the shell script to run, and its exit status. */
export const COMMAND_FILE = 'command.sh';
export const STATUS_FILE = 'status';
/** The exit status if the kernel has logged a WARNING or a BUG, whatever the command's status was. */
const KERNEL_COMPLAINED = 99;

/**
 * The first process of the test machine. It loads the modules, mounts the host's root read-only, mounts the guest's own /dev,
 * /proc, /sys and an empty /run over it, runs the command there, and turns the machine off.
 *
 * The host's /tmp stays visible (a checkout may be in it), so TMPDIR is in /run.
 */
export function initScript(moduleFiles: readonly string[]): string {
  return `#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /host
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
${moduleFiles.map((file) => `busybox insmod ${file} || echo "init: cannot load ${file}"`).join('\n')}
busybox ip link set lo up 2>/dev/null
nineP=trans=virtio,version=9p2000.L,msize=512000
busybox mount -t 9p -o ro,cache=loose,$nineP hostroot /host || echo 'init: cannot mount the host root'
busybox mount -t tmpfs run /host/run
busybox mkdir -p /host${SHARE_IN_GUEST} /host/run/tmp /host/run/home
busybox mount -t 9p -o rw,cache=none,$nineP share /host${SHARE_IN_GUEST} || echo 'init: cannot mount the share'
busybox mount --bind /dev /host/dev
busybox mkdir -p /host/dev/shm /host/dev/pts
busybox mount -t tmpfs shm /host/dev/shm
busybox mount --bind /proc /host/proc
busybox mount --bind /sys /host/sys
export HOME=/run/home TMPDIR=/run/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Through a pipe: what runs inside then sees no terminal, and prints plain lines.
(
  /bin/busybox chroot /host /bin/sh ${SHARE_IN_GUEST}/${COMMAND_FILE}
  status=$?
  # What a driver did wrong does not fail a test by itself: a warning of the kernel's fails the run.
  if /bin/busybox dmesg | /bin/busybox grep -A 30 -E '(WARNING|BUG): '; then
    echo 'init: the kernel complained, see above'
    status=${KERNEL_COMPLAINED}
  fi
  echo $status >/host${SHARE_IN_GUEST}/${STATUS_FILE}
) 2>&1 | /bin/busybox cat
/bin/busybox sync
/bin/busybox reboot -f
`;
}
