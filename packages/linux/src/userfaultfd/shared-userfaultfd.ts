import { GodwitError } from '@godwit/core/errors';
import { Uffd } from '../layouts/userfaultfd.js';
import { Userfaultfd } from './userfaultfd.js';

/** A piece of this process's address space, in bytes; both are multiples of its page size. */
export interface AddressRange {
  readonly address: bigint;
  readonly byteLength: number;
}

/**
 * What a range is registered for:
 *
 * - `missing`: faults on missing pages are reported
 * - `asynchronous`: the kernel notes writes to protected pages in the page table (`UFFD_FEATURE_WP_ASYNC`)
 * - `synchronous`: writes to protected pages are reported, and wait
 * - `accesses`: the kernel notes reads and writes of protected pages in the page table (`UFFD_FEATURE_RWP_ASYNC`, Linux 7.3)
 */
export type RangeUse = 'missing' | 'asynchronous' | 'synchronous' | 'accesses';

const MODES: Readonly<Record<RangeUse, number>> = {
  missing: Uffd.UFFDIO_REGISTER_MODE_MISSING,
  asynchronous: Uffd.UFFDIO_REGISTER_MODE_WP,
  synchronous: Uffd.UFFDIO_REGISTER_MODE_WP,
  accesses: Uffd.UFFDIO_REGISTER_MODE_RWP,
};

/** The features that a use requires. */
const REQUIRED: Readonly<Record<RangeUse, number>> = {
  missing: Uffd.UFFD_FEATURE_MISSING_SHMEM,
  asynchronous: Uffd.UFFD_FEATURE_WP_ASYNC | Uffd.UFFD_FEATURE_WP_UNPOPULATED,
  synchronous: Uffd.UFFD_FEATURE_PAGEFAULT_FLAG_WP | Uffd.UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
  accesses: Uffd.UFFD_FEATURE_RWP | Uffd.UFFD_FEATURE_RWP_ASYNC,
};

/** The features that a descriptor has for later users: none of those whose events would have to be read. */
const WANTED =
  REQUIRED.missing |
  REQUIRED.accesses |
  Uffd.UFFD_FEATURE_MISSING_HUGETLBFS |
  Uffd.UFFD_FEATURE_THREAD_ID |
  Uffd.UFFD_FEATURE_POISON |
  Uffd.UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
  Uffd.UFFD_FEATURE_WP_UNPOPULATED;

/** A descriptor and the users of its ranges. */
interface Shared {
  readonly uffd: Userfaultfd;
  readonly users: Set<SharedUserfaultfd>;
  /** Present users, and former ones that have not left yet. */
  readonly holders: Set<SharedUserfaultfd>;
}

/** The descriptors of this thread. */
const descriptors = new Set<Shared>();

/**
 * A range of memory belongs to at most one userfaultfd, but has several users: the pagemap tracker, and the thread that serves missing
 * pages. `join` gives them the same descriptor, and each range has the modes of all that use it, until they `leave`.
 *
 * Synchronous protection cannot be combined with any other use, nor protection against writes with protection against all accesses. The
 * class knows the users of its own thread; where another thread, or another library, has a userfaultfd on the range, `join` fails with
 * EBUSY.
 *
 * @example
 * const serving = SharedUserfaultfd.join(memory.blocks.map(({ hostAddress: address, byteLength }) => ({ address, byteLength })), 'missing');
 * startFaultThread(serving.uffd.fd);
 * // ... and once no page is missing:
 * serving.leave();
 */
export class SharedUserfaultfd {
  /** Do not close it. */
  readonly uffd: Userfaultfd;
  readonly #shared: Shared;
  readonly #ranges: readonly AddressRange[];
  readonly #use: RangeUse;

  private constructor(shared: Shared, ranges: readonly AddressRange[], use: RangeUse) {
    this.#shared = shared;
    this.uffd = shared.uffd;
    this.#ranges = ranges;
    this.#use = use;
  }

  /**
   * Registers the ranges for this use, with the descriptor that has them already, or with a new one.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED when the kernel lacks a feature or permission, or when the use cannot be combined with a present
   * one (synchronous with anything, asynchronous write protection with accesses); GODWIT_INVALID_STATE when a range already has this use;
   * SyscallError EBUSY when it belongs to a userfaultfd that is not shared
   */
  static join(ranges: readonly AddressRange[], use: RangeUse): SharedUserfaultfd {
    const user = SharedUserfaultfd.reserve(ranges, use);
    try {
      user.register();
      return user;
    } catch (error) {
      user.leave();
      throw error;
    }
  }

  /**
   * Finds or opens the descriptor for a `join` of these ranges, which `register` completes: a thread can be given the descriptor beforehand.
   *
   * @throws GodwitError, SyscallError as `join`
   */
  static reserve(ranges: readonly AddressRange[], use: RangeUse): SharedUserfaultfd {
    const shared = descriptorFor(ranges, use);
    const user = new SharedUserfaultfd(shared, ranges, use);
    shared.holders.add(user);
    return user;
  }

  /**
   * Registers the ranges of a `reserve`, once. After an error the user can only `leave`.
   *
   * @throws GodwitError, SyscallError as `join`; GODWIT_INVALID_STATE when another descriptor has a range by now
   */
  register(): void {
    const { users, uffd } = this.#shared;
    for (const other of descriptors) {
      for (const user of other.users) {
        const objection = user.objection(this.#ranges, this.#use);
        if (objection !== undefined) throw objection;
        if (other !== this.#shared && user.covers(this.#ranges)) {
          throw new GodwitError('GODWIT_INVALID_STATE', 'a range has got another userfaultfd since it was reserved');
        }
      }
    }
    descriptors.add(this.#shared);
    users.add(this);
    for (const { address, byteLength, mode } of this.#pieces()) uffd.register(address, byteLength, mode);
  }

  /**
   * Ends this use of the ranges: threads that wait for a page of them go on. The descriptor stays open until `leave`, for threads that
   * still use it. After `missing`, no page may be missing unless it was poisoned: it would read as zeros. A tracker that goes on then finds
   * every page written once, since the kernel removes the protection with the registration. Idempotent.
   */
  unregister(): void {
    const { users, uffd } = this.#shared;
    if (!users.delete(this)) return;
    if (users.size === 0) descriptors.delete(this.#shared);
    for (const { address, byteLength, mode } of this.#pieces()) {
      if (mode === 0) {
        // A range that could not be registered need not be unregistered.
        tryUnregister(uffd, address, byteLength);
        // The kernel wakes the threads itself only where the range was registered for missing pages.
        if (this.#use === 'synchronous') uffd.wake(Number(address), byteLength);
      } else if (this.#use === 'missing') {
        // The kernel only adds modes to a range: to remove one, the range is unregistered and registered again.
        tryUnregister(uffd, address, byteLength);
        uffd.register(address, byteLength, mode);
      }
      // A failure is ignored: the kernel lifts the rest of an asynchronous protection at the first write.
    }
  }

  /** `unregister`, and closes the descriptor when this was its last user. Idempotent. */
  leave(): void {
    this.unregister();
    const { holders, uffd } = this.#shared;
    holders.delete(this);
    if (holders.size === 0) uffd.close();
  }

  /** The ranges of this user, cut where the ranges of other users begin and end, with the modes of all users. */
  *#pieces(): Iterable<AddressRange & { readonly mode: number }> {
    const all = [...this.#shared.users];
    const borders = all.flatMap((user) => user.#ranges.flatMap((range) => [range.address, endOf(range)]));
    for (const range of this.#ranges) {
      const inside = borders.filter((border) => border > range.address && border < endOf(range));
      const cuts = [...new Set([range.address, ...inside, endOf(range)])].sort((a, b) => (a < b ? -1 : 1));
      for (let i = 0; i + 1 < cuts.length; i++) {
        const [address, end] = [cuts[i] as bigint, cuts[i + 1] as bigint];
        const piece = { address, byteLength: Number(end - address) };
        const users = all.filter((user) => user.#ranges.some((other) => overlap(other, piece)));
        yield { ...piece, mode: users.reduce((mode, user) => mode | MODES[user.#use], 0) };
      }
    }
  }

  /** Whether any byte of these ranges is in one of this user's. */
  covers(ranges: readonly AddressRange[]): boolean {
    return this.#ranges.some((mine) => ranges.some((other) => overlap(mine, other)));
  }

  /** The error when a further use of these ranges cannot be combined with this one; undefined when it can. */
  objection(ranges: readonly AddressRange[], use: RangeUse): GodwitError | undefined {
    if (!this.covers(ranges)) return undefined;
    if (use === this.#use) {
      return new GodwitError(
        'GODWIT_INVALID_STATE',
        `a range is used for "${use}" faults already (EBUSY): end that use first, each of them has a range to itself`,
      );
    }
    if (goTogether(use, this.#use)) return undefined;
    const until = UNTIL[this.#use];
    return new GodwitError(
      'GODWIT_UNSUPPORTED',
      `a range is used for "${this.#use}" faults, beside which no "${use}" ones are possible: wait until ${until}`,
    );
  }
}

function descriptorFor(ranges: readonly AddressRange[], use: RangeUse): Shared {
  const own = [...descriptors].filter(({ users }) => [...users].some((user) => user.covers(ranges)));
  for (const { users } of own) {
    for (const user of users) {
      const objection = user.objection(ranges, use);
      if (objection !== undefined) throw objection;
    }
  }
  const [found, another] = own;
  if (another !== undefined) {
    throw new GodwitError('GODWIT_INVALID_STATE', 'these ranges belong to two userfaultfds: use each part by itself');
  }
  if (found !== undefined && mayServe(found.uffd, use)) return found;
  const wanted = WANTED | (use === 'synchronous' ? 0 : Uffd.UFFD_FEATURE_WP_ASYNC);
  const uffd = Userfaultfd.open(REQUIRED[use], wanted);
  const shared: Shared = { uffd, users: new Set(), holders: new Set() };
  try {
    mayServe(uffd, use);
  } catch (error) {
    uffd.close();
    throw error;
  }
  return shared;
}

/** The uses whose faults a thread handles; the kernel handles those of the others. */
const HANDLED: ReadonlySet<RangeUse> = new Set<RangeUse>(['missing', 'synchronous']);

/** The end of a use of a range, in words. */
const UNTIL: Readonly<Record<RangeUse, string>> = {
  missing: 'all its pages are there',
  asynchronous: 'the pagemap tracker is stopped',
  synchronous: 'nobody protects it synchronously',
  accesses: 'the access tracker is stopped',
};

/**
 * Whether two different uses can have one range. Synchronous protection cannot be combined with any other use, and the kernel has one bit
 * of a page table entry for both protection against writing and protection against any access.
 */
function goTogether(one: RangeUse, other: RangeUse): boolean {
  if (one === 'synchronous' || other === 'synchronous') return false;
  return one === 'missing' || other === 'missing';
}

/** True, or throws why a descriptor cannot be used so. */
function mayServe(uffd: Userfaultfd, use: RangeUse): true {
  if (HANDLED.has(use) && uffd.userModeOnly) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      'this process may only handle page faults of user mode, and those of KVM and of system calls are not; give your user access to ' +
        '/dev/userfaultfd, or set the sysctl vm.unprivileged_userfaultfd=1',
    );
  }
  const lacking = REQUIRED[use] & ~uffd.features;
  const asynchronous = (uffd.features & Uffd.UFFD_FEATURE_WP_ASYNC) !== 0;
  if (lacking === 0 && !(use === 'synchronous' && asynchronous)) return true;
  throw new GodwitError(
    'GODWIT_UNSUPPORTED',
    `the userfaultfd of these ranges does not have what "${use}" needs: end its other uses first`,
  );
}

function tryUnregister(uffd: Userfaultfd, address: bigint, byteLength: number): void {
  try {
    uffd.unregister(address, byteLength);
  } catch {
    // The range was not registered.
  }
}

function endOf({ address, byteLength }: AddressRange): bigint {
  return address + BigInt(byteLength);
}

function overlap(a: AddressRange, b: AddressRange): boolean {
  return a.address < endOf(b) && b.address < endOf(a);
}
