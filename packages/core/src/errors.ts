/**
 * Every error that Godwit throws or sends has one of these codes. They are API: match on `code`, not on the message.
 * Adding one is fine; renaming or reusing one is a breaking change (a test freezes the list).
 */
export const ERROR_CODES = [
  /** A caller broke a contract (a range outside its block, a negative limit, ...). */
  'GODWIT_INVALID_ARGUMENT',
  /** A method was called in a state in which it is not allowed (`proceed` without pre-switchover, ...). */
  'GODWIT_INVALID_STATE',
  /** The migration was cancelled; the guest runs on at the source. */
  'GODWIT_CANCELLED',
  /** The link to the peer was lost or could not be made. */
  'GODWIT_LINK_LOST',
  'GODWIT_CONNECT_FAILED',
  /** Something took longer than the option named in the message allows. */
  'GODWIT_TIMEOUT',
  /** The bytes are not a Godwit stream, or not one that this end can read. */
  'GODWIT_BAD_STREAM',
  /** A frame that is well-formed but not allowed now, or with values that are out of range. */
  'GODWIT_PROTOCOL',
  /** No protocol version in common. */
  'GODWIT_VERSION_MISMATCH',
  'GODWIT_PAGE_SIZE_MISMATCH',
  /** RAM blocks differ in name, address or size. */
  'GODWIT_MEMORY_MISMATCH',
  /** Devices differ in id, or in a version that the destination cannot load. */
  'GODWIT_DEVICE_MISMATCH',
  /** A page range outside its RAM block, or a block that does not exist. */
  'GODWIT_OUT_OF_RANGE',
  /** A size, count or length beyond the negotiated limits. */
  'GODWIT_LIMIT_EXCEEDED',
  /** A device failed to save or load its state. */
  'GODWIT_DEVICE_FAILED',
  /** The convergence policy aborted the migration; the guest runs on at the source. */
  'GODWIT_NOT_CONVERGING',
  /** A dirty tracker could not be started, or failed. */
  'GODWIT_TRACKER_FAILED',
  /** The guest could not be paused or resumed. */
  'GODWIT_VM_FAILED',
  /** `prepare` refused the VM or could not build it. */
  'GODWIT_PREPARE_FAILED',
  /** The RAM of source and destination differ; nothing was handed over. */
  'GODWIT_VERIFY_FAILED',
  /** The link was lost after `go`: the destination may be running the guest; the guest stays paused at the source. */
  'GODWIT_OWNERSHIP_UNKNOWN',
  /** The recording of a migration could not be created or written. */
  'GODWIT_RECORDING_FAILED',
  /** The destination knows no migration of this id, or has given it up: it will not run the guest. */
  'GODWIT_UNKNOWN_MIGRATION',
  /** The embedder declared the destination dead (`recover`); the guest runs at the source again. */
  'GODWIT_RECOVERED',
  /** No other code fits: usually an error of the embedder's own code, in `cause`. */
  'GODWIT_INTERNAL',
  /** A system call failed; see `syscall`, `errno` and `errnoName`. */
  'GODWIT_SYSCALL',
  /** The host lacks a kernel feature, a device node or a permission. */
  'GODWIT_UNSUPPORTED',
  /** A device, or its IOMMU group, is in use by another process or driver. */
  'GODWIT_DEVICE_BUSY',
  /** No permission for a device node or a system call. */
  'GODWIT_PERMISSION',
  /** The host has not enough memory for the request. */
  'GODWIT_OUT_OF_MEMORY',
  /** The guest stopped in a way the VMM cannot handle. */
  'GODWIT_GUEST_CRASHED',
  /** The VM, or memory, a tracker or a device of it, takes part in another migration. Nothing of it was touched. */
  'GODWIT_CLAIMED',
  /** The VM was handed over to a destination. `reclaim` makes it free again. */
  'GODWIT_HANDED_OVER',
  /** The guest has ended by itself (shut down or crashed) before it was handed over. */
  'GODWIT_GUEST_ENDED',
  /**
   * Both sides map the same memory, so that receiving would overwrite the guest that is sent; or memory that was declared shared is not
   * proved to be the same, or is where it cannot be: in a snapshot, or taken back after `go`.
   */
  'GODWIT_SHARED_MEMORY',
  /** A device says that it cannot be migrated now. */
  'GODWIT_BLOCKED',
  /** Stop-and-copy took longer than it may; the guest runs on at the source, and pre-copy goes on. */
  'GODWIT_SWITCHOVER_OVERRAN',
  /** The ownership authority says that this side does not own the guest. */
  'GODWIT_NOT_OWNER',
  /** The estimate exceeds `refuseAbove`: the migration was refused before its first page moved. */
  'GODWIT_ESTIMATE_EXCEEDED',
  /**
   * The guest runs here, and some pages of its memory can no longer come: its memory stays incomplete, and the guest stops where it
   * needs such a page.
   */
  'GODWIT_PAGES_MISSING',
] as const;

/** The code of a `GodwitError`: stable, so that programs may depend on it. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** Codes of temporary failures: unless an error says otherwise, its `retry` is true. */
const MAY_PASS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'GODWIT_LINK_LOST',
  'GODWIT_CONNECT_FAILED',
  'GODWIT_TIMEOUT',
  'GODWIT_CLAIMED',
  'GODWIT_SWITCHOVER_OVERRAN',
]);

export interface GodwitErrorOptions {
  readonly cause?: unknown;
  readonly remote?: boolean;
  readonly retry?: boolean;
}

/** A `GodwitError` as JSON. */
export interface GodwitErrorJson {
  readonly name: string;
  readonly code: ErrorCode;
  readonly message: string;
  readonly retry: boolean;
  readonly remote: boolean;
  /** Left out where the error has no cause. */
  readonly cause?: CauseJson;
}

/** The cause in an error's JSON. */
export interface CauseJson {
  readonly name?: string;
  /** `GODWIT_...`, or a name such as `ECONNREFUSED`. */
  readonly code?: string;
  readonly message: string;
  readonly cause?: CauseJson;
  /** The errors of an `AggregateError`, such as one for each address. */
  readonly errors?: readonly CauseJson[];
}

/** The depth to which causes of causes are in the JSON, since a chain of causes may be circular. */
const DEEPEST_CAUSE = 8;

const BRAND = Symbol.for('@godwit/error');

/**
 * The base of all errors.
 *
 * - `message` says what was expected, what came and what to do.
 * - `code` is stable.
 * - `cause` is the underlying error, if any.
 * - `remote` is true for an error that the peer has reported.
 * - `retry` says whether another attempt may succeed; for a remote error, whether this migration may go on over another connection.
 *
 * @example
 * try { await migration.result } catch (error) {
 *   if (GodwitError.is(error) && error.retry) scheduleAnotherAttempt();
 * }
 */
export class GodwitError extends Error {
  override readonly name: string = 'GodwitError';
  readonly code: ErrorCode;
  readonly remote: boolean;
  readonly retry: boolean;
  readonly [BRAND] = true;

  constructor(code: ErrorCode, message: string, options: GodwitErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remote = options.remote ?? false;
    this.retry = options.retry ?? (!this.remote && MAY_PASS.has(code));
  }

  /** Returns the error for logs and other processes; `JSON.stringify` of a plain `Error` has no message. */
  toJSON(): GodwitErrorJson {
    const { name, code, message, retry, remote, cause } = this;
    return { name, code, message, retry, remote, ...(cause === undefined ? {} : { cause: causeJson(cause) }) };
  }

  /** Whether `value` is a `GodwitError`, also one of another copy of this package, for which `instanceof` is false. */
  static is(value: unknown): value is GodwitError {
    return typeof value === 'object' && value !== null && (value as { [BRAND]?: unknown })[BRAND] === true;
  }

  /** Returns `error` itself when it is a `GodwitError`, else one with `code` and the message `context: error's message`. */
  static wrap(error: unknown, code: ErrorCode, context: string): GodwitError {
    if (GodwitError.is(error)) return error;
    const detail = error instanceof Error ? error.message : String(error);
    return new GodwitError(code, `${context}: ${detail}`, { cause: error });
  }
}

function causeJson(cause: unknown, depth = 1): CauseJson {
  if (!(cause instanceof Error)) return { message: typeof cause === 'string' ? cause : quoted(cause) };
  const { name, message } = cause;
  const { code, errors } = cause as { code?: unknown; errors?: unknown };
  const deeper = depth < DEEPEST_CAUSE;
  return {
    name,
    ...(typeof code === 'string' && { code }),
    message,
    ...(deeper && cause.cause !== undefined && { cause: causeJson(cause.cause, depth + 1) }),
    ...(deeper && Array.isArray(errors) && { errors: errors.map((error) => causeJson(error, depth + 1)) }),
  };
}

const LONGEST_QUOTE = 80;

/**
 * Returns the text that shows a value of any type in an error message: `50` for a number, `'50'` with quotes and the word "string" for
 * text, since the wrong type is often the mistake.
 *
 * @example
 * throw new GodwitError('GODWIT_INVALID_ARGUMENT', `port must be a number, got ${quoted(port)}`);
 * // port must be a number, got '4444', a string
 */
export function quoted(value: unknown): string {
  switch (typeof value) {
    case 'string': {
      const escaped = JSON.stringify(value).slice(1, -1).replaceAll('\\"', '"');
      return `'${escaped.length > LONGEST_QUOTE ? `${escaped.slice(0, LONGEST_QUOTE)}...` : escaped}', a string`;
    }
    case 'bigint':
      return `${value}n, a bigint`;
    case 'function':
      return value.name === '' ? 'a function' : `the function ${value.name}`;
    case 'object':
      if (value === null) return 'null';
      return Array.isArray(value) ? `an array of ${value.length}` : `an object (${nameOfKind(value)})`;
    default:
      return String(value);
  }
}

function nameOfKind(value: object): string {
  const name = (value.constructor as { name?: unknown } | undefined)?.name;
  return typeof name === 'string' && name !== '' ? name : 'without a constructor';
}
