import { NestedState } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';

interface Given {
  readonly flags?: number;
  readonly format?: number;
  readonly vmxon?: bigint;
  readonly more?: number;
  readonly size?: number;
}

/** `struct kvm_nested_state` of asm/kvm.h, with `more` bytes behind its head. */
function state(given: Given): Uint8Array {
  const { flags = 0, format = 0, vmxon = 2n ** 64n - 1n, more = 0 } = given;
  const { size = 128 + more } = given;
  const bytes = new Uint8Array(128 + more);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, flags, true);
  view.setUint16(2, format, true);
  view.setUint32(4, size, true);
  view.setBigUint64(8, vmxon, true);
  return bytes;
}

test.each<[string, Given, boolean]>([
  ["Intel's, without VMXON", {}, true],
  ["Intel's, after VMXON", { vmxon: 0x1000n }, false],
  ["Intel's, in a guest of the guest", { flags: 1, vmxon: 0x1000n, more: 4096 }, false],
  ["AMD's, outside", { format: 1, flags: 0x100, vmxon: 0n }, true],
  ["AMD's, with interrupts held back", { format: 1, flags: 0, vmxon: 0n }, false],
  ["AMD's, in a guest of the guest", { format: 1, flags: 0x101, more: 4096 }, false],
])('whether there is anything to move: %s', (_, given, isEmpty) => {
  expect(NestedState.decode(state(given)).isEmpty).toBe(isEmpty);
});

test('bytes behind the state are left out', () => {
  expect(NestedState.decode(state({ more: 4096, size: 128 })).bytes).toHaveLength(128);
});

test.each([
  ['too short', new Uint8Array(100)],
  ['cut off', state({ size: 4224 })],
  ['smaller than its head', state({ size: 64 })],
])('refuses a state that is %s', (_, bytes) => {
  expect(() => NestedState.decode(bytes)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
});
