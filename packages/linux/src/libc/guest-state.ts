import { resultOrNegativeErrno } from './call.js';
import { cFunction } from './library.js';

const cSyscall = cFunction<[number, number, number], number>('syscall', 'long', ['long', 'long', 'long']);

/** asm/unistd_64.h */
const ARCH_PRCTL = 158;
/** asm/prctl.h: asks for a component of the XSAVE area for the guests of this process. */
const ARCH_REQ_XCOMP_GUEST_PERM = 0x1025;

/** `arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM)` on x86-64. Returns whether the guests of this process may use the component. */
export function requestGuestState(component: number): boolean {
  return resultOrNegativeErrno(cSyscall(ARCH_PRCTL, ARCH_REQ_XCOMP_GUEST_PERM, component)) >= 0;
}
