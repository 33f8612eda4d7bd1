import { GodwitError } from '@godwit/core';
import type { KvmVcpu, KvmVm } from '@godwit/linux';
import { Msr } from '@godwit/linux/kvm';

/** The paravirtual clock (kvm-clock) and a vCPU's time-stamp counter at one moment. */
export interface ClockReading {
  /** Nanoseconds. */
  readonly clock: bigint;
  /** As the guest reads it. */
  readonly counter: bigint;
}

/** The two cannot be read at the same time. Of so many attempts the one that took the shortest time counts. */
const ATTEMPTS = 10;
const READING_BYTES = 16;

/** Reads both, the counter before and after the clock. The error is at most half the time of the undisturbed calls. */
export function readClocks(vm: Pick<KvmVm, 'getClock'>, vcpu: Pick<KvmVcpu, 'readMsrs'>): ClockReading | undefined {
  let best: ClockReading | undefined;
  let shortest: bigint | undefined;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const before = vcpu.readMsrs([Msr.timeStampCounter])[0]?.value;
    const clock = vm.getClock();
    const after = vcpu.readMsrs([Msr.timeStampCounter])[0]?.value;
    if (before === undefined || after === undefined) return undefined;
    const took = BigInt.asUintN(64, after - before);
    if (shortest !== undefined && took >= shortest) continue;
    shortest = took;
    best = { clock, counter: BigInt.asUintN(64, before + took / 2n) };
  }
  return best;
}

/**
 * How much has to be added to the counter that was read here, for both to stand to each other as in an earlier reading elsewhere. A guest
 * that goes by one of them checks it with the other, and calls the counter unstable where they disagree by half a millisecond.
 *
 * @param tscKhz the frequency of the counter
 */
export function counterCorrection(earlier: ClockReading, here: ClockReading, tscKhz: number): bigint {
  const passed = ((here.clock - earlier.clock) * BigInt(tscKhz)) / 1_000_000n;
  return BigInt.asIntN(64, earlier.counter + passed - here.counter);
}

/** A reading as bytes: the clock, then the counter, 8 bytes each. */
export function encodeReading({ clock, counter }: ClockReading): Uint8Array {
  return new Uint8Array(BigUint64Array.of(clock, counter).buffer);
}

/** @throws GodwitError GODWIT_DEVICE_FAILED for a wrong number of bytes */
export function decodeReading(device: string, bytes: Uint8Array): ClockReading {
  if (bytes.byteLength !== READING_BYTES) {
    throw new GodwitError(
      'GODWIT_DEVICE_FAILED',
      `the reading of both clocks of ${device} has ${bytes.byteLength} bytes, not ${READING_BYTES}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { clock: view.getBigUint64(0, true), counter: view.getBigUint64(8, true) };
}
