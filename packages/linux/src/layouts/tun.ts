import { defines, type KernelLayout, struct } from './kernel-layout.js';

/** linux/if_tun.h: a network interface whose frames a process reads and writes. */
export const Tun = { TUNSETIFF: 0x4004_54ca, IFF_TAP: 0x2, IFF_NO_PI: 0x1000 } as const;

/** A request about an interface, by its name of at most 15 characters and a zero. */
export const IFREQ = struct('linux/if.h', 'ifreq', 40, {
  'ifr_ifrn.ifrn_name': [0, 16],
  'ifr_ifru.ifru_flags': [16, 2],
});

export const tunLayouts: readonly KernelLayout[] = [IFREQ, ...defines('linux/if_tun.h', Tun)];
