import { GodwitError } from '@godwit/core/errors';

/*
 * The state of one device as bytes: "GDS1", then sections, each a tag of four ASCII characters, a length and that many
 * bytes, then the tag "END." with length 0. Numbers are little-endian, 4 bytes. The length 0xffffffff marks a section that the source's
 * kernel does not have, as opposed to one that is missing.
 */
const MAGIC = tagNumber('GDS1');
const END = tagNumber('END.');
const ABSENT = 0xffff_ffff;
/** Most bytes of a state, far more than any device here has. */
const MAX_STATE_BYTES = 16 * 2 ** 20;

/** Bytes of a state whose sections have at most so many bytes: for `MigratableDevice.maximumStateBytes`. */
export function stateBytesOf(...sections: readonly number[]): number {
  // The magic number, a tag and a length for each section, and the end.
  return sections.reduce((sum, bytes) => sum + 8 + bytes, 4 + 8);
}

/** Writes the sections of one device. */
export class StateWriter {
  readonly #chunks: Uint8Array[] = [words(MAGIC)];

  section(tag: string, bytes: Uint8Array): this {
    this.#chunks.push(words(tagNumber(tag), bytes.byteLength), bytes);
    return this;
  }

  /** Adds a section as absent: the host does not have this state. */
  absent(tag: string): this {
    this.#chunks.push(words(tagNumber(tag), ABSENT));
    return this;
  }

  finish(): Uint8Array {
    this.#chunks.push(words(END, 0));
    return Buffer.concat(this.#chunks);
  }
}

/**
 * Reads the sections of one device. It refuses a wrong magic number, a section that is cut off, unknown or repeated, and bytes after the
 * end. All checks are made before the first section is returned, so that a refused state changes nothing in the device.
 */
export class StateReader {
  readonly #device: string;
  readonly #sections: ReadonlyMap<string, Uint8Array | undefined>;

  private constructor(device: string, sections: ReadonlyMap<string, Uint8Array | undefined>) {
    this.#device = device;
    this.#sections = sections;
  }

  /**
   * @param known all tags that the device understands
   * @throws GodwitError GODWIT_DEVICE_FAILED
   */
  static async read(device: string, state: AsyncIterable<Uint8Array>, known: readonly string[]): Promise<StateReader> {
    return StateReader.parse(device, await collect(device, state), known);
  }

  static parse(device: string, bytes: Uint8Array, known: readonly string[]): StateReader {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const sections = new Map<string, Uint8Array | undefined>();
    const need = (at: number, length: number): void => {
      if (at + length > bytes.byteLength) {
        throw refused(device, `it is cut off: ${length} bytes are needed at ${at} of ${bytes.byteLength}`);
      }
    };
    need(0, 4);
    if (view.getUint32(0, true) !== MAGIC) throw refused(device, 'it does not start with "GDS1"');
    let at = 4;
    for (;;) {
      need(at, 8);
      const number = view.getUint32(at, true);
      const length = view.getUint32(at + 4, true);
      at += 8;
      if (number === END) {
        if (length !== 0 || at !== bytes.byteLength)
          throw refused(device, `${bytes.byteLength - at} bytes follow its end`);
        return new StateReader(device, sections);
      }
      const tag = known.find((name) => tagNumber(name) === number);
      if (tag === undefined) throw refused(device, `its section 0x${number.toString(16)} at ${at - 8} is unknown here`);
      if (sections.has(tag)) throw refused(device, `its section "${tag}" is there twice`);
      if (length === ABSENT) {
        sections.set(tag, undefined);
        continue;
      }
      need(at, length);
      // `Uint8Array.from` copies to a new buffer (the `slice` of a Buffer is a view into a pool).
      sections.set(tag, Uint8Array.from(bytes.subarray(at, at + length)));
      at += length;
    }
  }

  /** The bytes of a section; undefined when it is missing or absent. */
  optional(tag: string): Uint8Array | undefined {
    return this.#sections.get(tag);
  }

  /** Refuses a state in which a section is missing: neither there nor marked as absent. */
  requireMention(tag: string): void {
    if (!this.#sections.has(tag)) throw refused(this.#device, `its section "${tag}" is missing`);
  }

  /** The bytes of a section, which must be there. @param byteLength the exact length, if given */
  required(tag: string, byteLength?: number): Uint8Array {
    const bytes = this.#sections.get(tag);
    if (bytes === undefined) throw refused(this.#device, `its section "${tag}" is missing`);
    if (byteLength !== undefined && bytes.byteLength !== byteLength) {
      throw refused(this.#device, `its section "${tag}" has ${bytes.byteLength} bytes instead of ${byteLength}`);
    }
    return bytes;
  }
}

/** Refuses another version. The engine has checked it when the migration began; this is for a `load` without an engine. */
export function requireVersion(device: string, version: number, known: number): void {
  if (version !== known) throw refused(device, `it has version ${version}, this program reads version ${known}`);
}

function refused(device: string, why: string): GodwitError {
  return new GodwitError('GODWIT_DEVICE_FAILED', `the state of ${device} cannot be loaded: ${why}`);
}

async function collect(device: string, state: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of state) {
    length += chunk.byteLength;
    if (length > MAX_STATE_BYTES) throw refused(device, `it is longer than ${MAX_STATE_BYTES} bytes`);
    chunks.push(Uint8Array.from(chunk));
  }
  return Buffer.concat(chunks, length);
}

function tagNumber(tag: string): number {
  if (!/^[\x20-\x7e]{4}$/.test(tag)) throw new RangeError(`a tag has four ASCII characters, got "${tag}"`);
  return Buffer.from(tag, 'latin1').readUInt32LE(0);
}

function words(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setUint32(i * 4, value, true);
  return bytes;
}
