import { GodwitError } from '@godwit/core/errors';
import { kvmNestedState } from './kvm-structs.js';

/** KVM_STATE_NESTED_FORMAT_VMX: Intel's. The other one is AMD's. */
const FORMAT_VMX = 0;
/** KVM_STATE_NESTED_GIF_SET, AMD's: interrupts may be taken, as they are outside of its virtualization. */
const GLOBAL_INTERRUPTS = 0x100;
/** The address of a VMXON region that there is not. */
const NO_VMXON = 2n ** 64n - 1n;
const { flags: FLAGS, format: FORMAT, size: SIZE } = kvmNestedState.fields;

/**
 * The state of a guest that runs guests of its own: `struct kvm_nested_state` with what belongs to it.
 *
 * @example
 * const state = vcpu.nestedState();
 * if (state !== undefined && !state.isEmpty) other.setNestedState(state);
 */
export class NestedState {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  private constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Reads KVM's structure; bytes beyond the size in its head are left out. Throws `GODWIT_INVALID_ARGUMENT` when they are not one. */
  static decode(bytes: Uint8Array): NestedState {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = bytes.byteLength >= kvmNestedState.size ? view.getUint32(SIZE[0], true) : 0;
    if (size < kvmNestedState.size || size > bytes.byteLength) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `a state of nested virtualization has ${kvmNestedState.size} bytes or more, got ${bytes.byteLength} that say ${size}`,
      );
    }
    return new NestedState(bytes.slice(0, size));
  }

  /** Whether the guest uses no virtualization: the state need not move. */
  get isEmpty(): boolean {
    const flags = this.#view.getUint16(FLAGS[0], true);
    if (this.bytes.byteLength > kvmNestedState.size) return false;
    if (this.#view.getUint16(FORMAT[0], true) !== FORMAT_VMX) return flags === GLOBAL_INTERRUPTS;
    return flags === 0 && this.#view.getBigUint64(kvmNestedState.fields['hdr.vmx.vmxon_pa'][0], true) === NO_VMXON;
  }
}
