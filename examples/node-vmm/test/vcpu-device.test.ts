import type { GuestMemory } from '@godwit/core';
import type { KvmVcpu, KvmVm } from '@godwit/linux';
import { Cpuid, type MsrValue, NestedState, VcpuState, type VcpuStatePart } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';
import { VcpuDevice } from '../dist/vcpu/vcpu-device.js';
import { inChunks, savedState } from './cold-migration.js';

/** What KVMs differ in, which one host cannot show: a vCPU that notes what it is told, in the place of KVM's. */

const memory = { pageSize: 4096, blocks: [] } as unknown as GuestMemory;
const CPUID = new Cpuid([{ function: 0, index: 0, flags: 0, eax: 1, ebx: 0, ecx: 0, edx: 0 }]);
const TSC = 0x10;
const DEADLINE = 0x6e0;

interface Host {
  readonly xsaveBytes?: number;
  readonly nestedBytes?: number;
  readonly offset?: bigint | undefined;
  readonly keepsOffset?: boolean;
}

/** The time of a host, in nanoseconds; each call takes some. Its counter counts once in a nanosecond, as those of its vCPUs do. */
class HostTime {
  now = 10n ** 9n;
  clockOffset: bigint;

  constructor(clockOffset: bigint) {
    this.clockOffset = clockOffset;
  }

  call(nanoseconds: bigint): bigint {
    this.now += nanoseconds;
    return this.now;
  }

  getClock = () => this.call(100n) + this.clockOffset;
}

class NotingVcpu {
  readonly done: string[] = [];
  readonly parts = new Map<string, Uint8Array>();
  nested: NestedState | undefined;
  #offset: bigint | undefined;
  readonly id: number;
  readonly #host: Host;
  readonly #time: HostTime;

  constructor(id: number, host: Host, time: HostTime) {
    this.id = id;
    this.#host = host;
    this.#time = time;
    this.#offset = host.offset;
  }

  cpuid = () => CPUID;
  setCpuid = () => this.done.push('cpuid');
  tscKhz = () => 1_000_000;
  tscOffset = () => this.#offset;
  setTscOffset(offset: bigint) {
    this.done.push(`offset ${offset}`);
    if (this.#host.keepsOffset !== false) this.#offset = offset;
  }
  get nestedStateBytes() {
    return this.#host.nestedBytes ?? 0;
  }
  nestedState = () => this.nested;
  setNestedState(state: NestedState) {
    this.done.push('nested');
    this.nested = state;
  }
  readMsrs = (indices: readonly number[]): MsrValue[] =>
    indices.map((index) => ({
      index,
      value: index === DEADLINE ? 5n : BigInt.asUintN(64, this.#time.call(100n) + (this.#offset ?? 0n)),
    }));
  writeMsrs(values: readonly MsrValue[]) {
    if (values.length > 0) this.done.push(values.some(({ index }) => index === DEADLINE) ? 'timer' : 'msrs');
    // Writing a counter takes its time.
    this.#time.call(23_000_000n);
  }
  has = () => true;
  sizeOf = (part: VcpuStatePart) => (part.name === VcpuState.xsave2.name ? (this.#host.xsaveBytes ?? 4096) : part.size);
  get = (part: VcpuStatePart) => this.parts.get(part.name) ?? new Uint8Array(this.sizeOf(part));
  set(part: VcpuStatePart, bytes: Uint8Array) {
    if (bytes.byteLength !== this.sizeOf(part)) throw new Error(`${part.name} of ${bytes.byteLength} bytes`);
    this.done.push(part.name);
    this.parts.set(part.name, bytes);
  }
}

/** A machine's vCPUs, and the device of the last one. */
function vcpus(...hosts: Host[]) {
  const time = new HostTime(0n);
  const all = hosts.map((host, id) => new NotingVcpu(id, host, time));
  const last = all.at(-1) as NotingVcpu;
  const hardware = { vm: time as unknown as KvmVm, vcpus: all as unknown as KvmVcpu[], msrIndices: [TSC, DEADLINE] };
  return { time, last, device: new VcpuDevice(last as unknown as KvmVcpu, hardware, memory, async () => {}) };
}

async function move(from: VcpuDevice, to: VcpuDevice, version = from.version): Promise<void> {
  await to.load(inChunks(await savedState(from)), version);
}

function nested(flags: number, more: number): NestedState {
  const bytes = new Uint8Array(128 + more);
  new DataView(bytes.buffer).setUint16(0, flags, true);
  new DataView(bytes.buffer).setUint32(4, bytes.byteLength, true);
  return NestedState.decode(bytes);
}

test('an XSAVE area goes to a host whose areas are longer, or shorter, unless something would be lost', async () => {
  const from = vcpus({ xsaveBytes: 8192 });
  from.last.parts.set(
    VcpuState.xsave2.name,
    Uint8Array.from({ length: 8192 }, (_, i) => (i < 4096 ? i & 0xff : 0)),
  );
  const saved = from.last.get(VcpuState.xsave2);
  for (const xsaveBytes of [4096, 8192, 11008]) {
    const to = vcpus({ xsaveBytes });
    await move(from.device, to.device);
    const loaded = to.last.get(VcpuState.xsave2);
    expect(loaded).toHaveLength(xsaveBytes);
    expect(loaded.subarray(0, 4096)).toEqual(saved.subarray(0, 4096));
  }
  saved[8000] = 1;
  await expect(move(from.device, vcpus({ xsaveBytes: 4096 }).device)).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('XSAVE area 2'),
  });
});

test('a difference of time-stamp counters is kept, on top of whatever vCPU 0 has at its new host', async () => {
  const from = vcpus({ offset: 500n }, { offset: 750n });
  const to = vcpus({ offset: 90_000n }, { offset: 90_000n });
  await move(from.device, to.device);
  expect(to.last.tscOffset()).toBe(90_250n);
  // The counter was written before, and would undo the offset.
  expect(to.last.done.lastIndexOf('msrs')).toBeLessThan(to.last.done.indexOf('offset 90250'));
  const behind = vcpus({ offset: 10n }, { offset: 10n });
  await move(vcpus({ offset: 500n }, { offset: 400n }).device, behind.device);
  expect(behind.last.tscOffset()).toBe(2n ** 64n - 90n);
});

test('a difference that KVM does not keep is refused; without one nothing is asked for', async () => {
  const to = vcpus({ offset: 0n, keepsOffset: false }, { offset: 0n, keepsOffset: false });
  await expect(move(vcpus({ offset: 1n }, { offset: 2n }).device, to.device)).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('KVM_VCPU_TSC_OFFSET'),
  });
  const equal = vcpus({ offset: 0n, keepsOffset: false }, { offset: 0n, keepsOffset: false });
  await move(vcpus({ offset: 7n }, { offset: 7n }).device, equal.device);
  await move(vcpus({}, {}).device, equal.device);
  await move(vcpus({ offset: 7n }, { offset: 8n }).device, vcpus({}, {}).device);
});

test('nested virtualization is loaded behind the MSRs and before the events', async () => {
  const from = vcpus({});
  from.last.nested = nested(1, 4096);
  const to = vcpus({ nestedBytes: 8192 });
  await move(from.device, to.device);
  expect(to.last.nested?.bytes).toEqual(from.last.nested.bytes);
  expect(to.last.done.indexOf('nested')).toBeGreaterThan(to.last.done.lastIndexOf('msrs'));
  expect(to.last.done.indexOf('nested')).toBeLessThan(to.last.done.indexOf(VcpuState.events.name));
});

test('a host without nested virtualization refuses a guest that uses it, and takes one that does not', async () => {
  const from = vcpus({});
  from.last.nested = nested(1, 4096);
  await expect(move(from.device, vcpus({}).device)).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('nested=1'),
  });
  const bytes = new Uint8Array(128);
  new DataView(bytes.buffer).setUint32(4, 128, true);
  new DataView(bytes.buffer).setBigUint64(8, 2n ** 64n - 1n, true);
  from.last.nested = NestedState.decode(bytes);
  const to = vcpus({});
  await move(from.device, to.device);
  expect(to.last.done).not.toContain('nested');
});

test("vCPU 0's counter stands to the paravirtual clock at its new host as it did before, however long anything took", async () => {
  for (const clockOffset of [5_000_000n, -20_000_000n, 0n]) {
    const from = vcpus({ offset: 700n });
    const state = await savedState(from.device);
    const ahead = from.time.now + 700n - from.time.getClock();
    const to = vcpus({ offset: 90_000n });
    to.time.clockOffset = clockOffset;
    await to.device.load(inChunks(state), from.device.version);
    const aheadThere = to.time.now + (to.last.tscOffset() ?? 0n) - to.time.getClock();
    // The calls that read both take 300 ns.
    expect(Number(BigInt.asIntN(64, aheadThere) - ahead)).toBeLessThan(300);
    expect(Number(ahead - BigInt.asIntN(64, aheadThere))).toBeLessThan(300);
    // The counter was written before, and would undo the offset; the timer compares with it.
    const offset = to.last.done.findIndex((what) => what.startsWith('offset'));
    expect(to.last.done.lastIndexOf('msrs')).toBeLessThan(offset);
    expect(to.last.done.indexOf('timer')).toBeGreaterThan(offset);
  }
});

test('a paravirtual clock that is far behind is not the one that was saved, and the counter does not go back with it', async () => {
  const from = vcpus({ offset: 700n });
  from.time.clockOffset = 2_000_000_000n;
  const state = await savedState(from.device);
  const to = vcpus({ offset: 90_000n });
  await to.device.load(inChunks(state), from.device.version);
  expect(to.last.done.filter((what) => what.startsWith('offset'))).toEqual([]);
});

test('a KVM that takes no offset keeps its own counter', async () => {
  const to = vcpus({ offset: 0n, keepsOffset: false });
  await move(vcpus({ offset: 7n }).device, to.device);
  expect(to.last.tscOffset()).toBe(0n);
  const without = vcpus({});
  await move(vcpus({ offset: 7n }).device, without.device);
  expect(without.last.tscOffset()).toBeUndefined();
  expect(without.last.done).toContain(VcpuState.events.name);
});

test('a state of version 2, without the reading of both clocks, or of version 1 is still loaded; one of version 4 is not', async () => {
  const state = await savedState(vcpus({ offset: 7n }).device);
  const reading = Buffer.from(state).indexOf('CLKS');
  const older = Buffer.concat([state.subarray(0, reading), state.subarray(reading + 8 + 16)]);
  for (const version of [1, 2]) {
    const to = vcpus({ offset: 5n, nestedBytes: 4096 });
    await to.device.load(inChunks(older), version);
    expect(to.last.tscOffset()).toBe(5n);
    expect(to.last.done).toContain(VcpuState.events.name);
  }
  await expect(move(vcpus({}).device, vcpus({}).device, 4)).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
});

test('a reading of both clocks that is cut short is refused', async () => {
  const state = Buffer.from(await savedState(vcpus({ offset: 7n }).device));
  const reading = state.indexOf('CLKS');
  state.writeUInt32LE(8, reading + 4);
  const short = Buffer.concat([state.subarray(0, reading + 16), state.subarray(reading + 24)]);
  await expect(vcpus({ offset: 7n }).device.load(inChunks(short), 3)).rejects.toMatchObject({
    code: 'GODWIT_DEVICE_FAILED',
    message: expect.stringContaining('8 bytes, not 16'),
  });
});
