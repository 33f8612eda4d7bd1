import { readFileSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { IFREQ, Tun } from '../layouts/tun.js';
import { closeFd, Errno, OpenFlags, openDevice, SyscallError, tryIoctl } from '../libc/index.js';

const TUN_DEVICE = '/dev/net/tun';
const LONGEST_NAME = 15;

/**
 * Checks that there is an interface of this name, without opening it.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT, which says how to make it
 */
export function checkTap(name: string): void {
  if (!/^[\w.-]+$/.test(name) || name.length > LONGEST_NAME) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `an interface has a name of 1 to ${LONGEST_NAME} characters, got "${name}"`,
    );
  }
  // Unlike /sys, it has the interfaces of this process's network namespace.
  const listed = readFileSync('/proc/self/net/dev', 'latin1').split('\n');
  if (listed.some((line) => line.trimStart().startsWith(`${name}:`))) return;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `there is no tap interface "${name}": make it with "ip tuntap add ${name} mode tap user $USER" and "ip link set ${name} up"`,
  );
}

/**
 * Opens a tap interface that is there, close-on-exec and non-blocking: each `read` of the descriptor is one Ethernet frame that the host
 * sends to it, and each `write` one that comes from it.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when there is no such interface; SyscallError GODWIT_PERMISSION when it is another user's,
 * GODWIT_DEVICE_BUSY when another process has it open
 * @example
 * const fd = openTap('tap0');
 */
export function openTap(name: string): number {
  checkTap(name);
  const fd = openDevice(TUN_DEVICE, OpenFlags.O_RDWR | OpenFlags.O_NONBLOCK);
  const request = new StructBuffer(IFREQ).set('ifr_ifru.ifru_flags', Tun.IFF_TAP | Tun.IFF_NO_PI);
  request.bytes.set(Buffer.from(name, 'latin1'));
  const result = tryIoctl(fd, Tun.TUNSETIFF, request.bytes);
  if (result >= 0) return fd;
  closeFd(fd);
  throw -result === Errno.EBUSY
    ? new SyscallError('TUNSETIFF', -result, name, {
        code: 'GODWIT_DEVICE_BUSY',
        advice: 'another process has the interface open: end it, or take another interface',
      })
    : new SyscallError('TUNSETIFF', -result, name, {
        advice: `make it yours: ip tuntap add ${name} mode tap user $USER`,
      });
}
