import { readFileSync } from 'node:fs';
import { type Frame, type FrameStream, GodwitError, type HelloFrame, migrate, receive } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { connectTo, frameStream, listenOn, memory, memoryPair, type Transport } from '@godwit/transport';
import { describe, expect, test } from '@jest/globals';
import { Unpackr } from 'msgpackr';
import { playing } from './byte-streams.js';

/** Bytes of a peer that speaks version 1 alone, and what a reader of version 2 takes them for. */
const VECTORS = JSON.parse(
  readFileSync(new URL('../test/vectors/version-1.json', import.meta.url), 'utf8'),
) as readonly { readonly name: string; readonly hex: string; readonly frame: Frame }[];
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));
const never = new AbortController().signal;

/** The elements of the first frame's header, with nothing of the implementation. */
function headerOf(bytes: Uint8Array): unknown[] {
  const length = Buffer.from(bytes.buffer, bytes.byteOffset).readUInt32BE(1);
  return new Unpackr({ useRecords: false, int64AsType: 'number' }).unpack(bytes.subarray(5, 5 + length)) as unknown[];
}

describe('frames of version 1', () => {
  test.each(VECTORS)('are read, so that they can be refused in words: $name', async ({ hex, frame }) => {
    const stream = frameStream(playing(bytesOf(hex)));
    expect((await stream.read())?.frame).toEqual(frame);
    expect(await stream.read()).toBeNull();
  });

  test('have the lengths that version 1 had', () => {
    const lengths = VECTORS.map(({ frame, hex }) => [frame.type, headerOf(bytesOf(hex)).length - 1]);
    expect(lengths).toEqual([
      ['hello', 12],
      ['hello', 12],
      ['welcome', 4],
      ['error', 2],
      ['error', 2],
    ]);
    const [, ...hello] = headerOf(bytesOf(VECTORS[0]?.hex as string));
    expect([hello[5], hello[6]].map((list) => (list as unknown[][]).map(({ length }) => length))).toEqual([
      [3, 3],
      [2],
    ]);
  });
});

describe('a peer that speaks version 1 alone', () => {
  test('is refused as a source, by its version, before a VM is built', async () => {
    const transport = memory();
    const links = await listenOn(transport);
    let prepared = 0;
    const incoming = receive(links, {
      prepare: () => {
        prepared++;
        return new ToyVm([], { running: false });
      },
    });
    const ended = incoming.result.catch((error: unknown) => error);
    const carrier = await transport.connect(never);
    await carrier.write([bytesOf(VECTORS[0]?.hex as string)]);
    const frame = (await frameStream(carrier).read())?.frame;
    expect(frame).toMatchObject({ type: 'error', code: 'GODWIT_VERSION_MISMATCH', retry: false });
    expect((frame as { message: string }).message).toMatch(/speaks protocol versions 1 to 1, .* 2 to 2; upgrade/);
    carrier.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    incoming.cancel();
    expect(await ended).toBeInstanceOf(GodwitError);
    await links.close();
    expect(prepared).toBe(0);
  });

  /** A destination that reads a hello and answers with these bytes. */
  async function answering(hex: string): Promise<{ readonly error: unknown; readonly hello: HelloFrame }> {
    const [near, far] = memoryPair();
    const transport: Transport = {
      connect: async () => near,
      listen: () => Promise.reject(new GodwitError('GODWIT_UNSUPPORTED', 'not here')),
    };
    const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 4096 }]);
    const migration = migrate(vm, connectTo(transport), { connectTimeoutMs: 100, reconnectTimeoutMs: 0 });
    const ended = migration.result.catch((error: unknown) => error);
    const destination: FrameStream = frameStream(far);
    const hello = (await destination.read())?.frame as HelloFrame;
    await far.write([bytesOf(hex)]);
    const error = await ended;
    far.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    expect([vm.running, vm.pauses]).toEqual([true, 0]);
    return { error, hello };
  }

  test('is refused as a destination that welcomes all the same', async () => {
    const welcome = VECTORS.find(({ frame }) => frame.type === 'welcome')?.hex as string;
    const { error, hello } = await answering(welcome);
    expect(error).toMatchObject({ code: 'GODWIT_VERSION_MISMATCH', remote: false });
    expect([hello.minimumVersion, hello.maximumVersion]).toEqual([2, 2]);
  });

  test('is heard as a destination that refuses', async () => {
    // An array of 3: type 3, the code, "old".
    const code = Buffer.from('GODWIT_VERSION_MISMATCH');
    const header = Buffer.concat([Uint8Array.of(0x93, 3, 0xb7), code, Uint8Array.of(0xa3), Buffer.from('old')]);
    const { error } = await answering(`ce000000${header.length.toString(16)}${header.toString('hex')}`);
    expect(error).toMatchObject({
      code: 'GODWIT_VERSION_MISMATCH',
      remote: true,
      retry: false,
      message: expect.stringContaining('old'),
    });
  });
});
