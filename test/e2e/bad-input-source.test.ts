import {
  type ErrorCode,
  type Frame,
  type FrameStream,
  GodwitError,
  type HelloFrame,
  pagesOf,
  type RamBlock,
  type ReceivedFrame,
} from '@godwit/core';
import { frameStream, type ListeningLinks, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { afterAll, afterEach, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import { failureOf, LiveGuest } from './bad-input-guest.js';

jest.setTimeout(60_000);

let guest: LiveGuest;
let links: ListeningLinks<TcpListener>;

beforeAll(async () => {
  guest = await LiveGuest.boot();
});

afterAll(() => guest?.close());

beforeEach(async () => {
  links = await listenOn(tcp({ port: 0 }), { handshakeTimeoutMs: 500 });
});

afterEach(() => links.close());

/** All frames of the peer, to the end of its stream. */
async function listenToTheEnd(stream: FrameStream): Promise<readonly Frame[]> {
  const heard: Frame[] = [];
  for (let received = await stream.read(); received !== null; received = await stream.read()) {
    heard.push(received.frame);
  }
  await stream.close();
  return heard;
}

const RECORD_OF_TLS = '\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03';

test.each<readonly [string, string, ErrorCode, RegExp]>([
  ['garbage', 'garbage', 'GODWIT_BAD_STREAM', /expected a frame, which starts with ce, got text: "garbage"/],
  ['a TLS hello', RECORD_OF_TLS, 'GODWIT_BAD_STREAM', /got 16 03 01 .*this looks like TLS; one side encrypts/],
  ['HTTP', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'GODWIT_BAD_STREAM', /got 47 45 54 .*this looks like HTTP/],
  ['a header of 4 GiB', '\xce\xff\xff\xff\xff', 'GODWIT_LIMIT_EXCEEDED', /4294967295 bytes.*maximumHeaderBytes/],
  ['a frame of a type that is none', '\xce\0\0\0\x02\x91\x63', 'GODWIT_BAD_STREAM', /frame type 99/],
  ['nothing', '', 'GODWIT_TIMEOUT', /no first frame came within handshakeTimeoutMs = 500/],
])(
  'a peer that sends %s is told, and the migration that is waited for takes place',
  async (_, words, code, message) => {
    const incoming = guest.receive(links);
    const stream = await tcp({ port: links.listener.port }).connect();
    if (words !== '') await stream.write([Buffer.from(words, 'latin1')]);
    const heard = await listenToTheEnd(frameStream(stream));
    // A source that was only slow may connect again.
    const retry = code === 'GODWIT_TIMEOUT';
    expect(heard).toEqual([{ type: 'error', code, message: expect.stringMatching(message), retry }]);
    await guest.move(links, incoming);
  },
);

test('pending connections who leave without a word, or in the middle of one, do not count either', async () => {
  const incoming = guest.receive(links);
  const leaving = new GodwitError('GODWIT_CANCELLED', 'the test leaves');
  for (const words of ['', '\xce\0\0']) {
    const stream = await tcp({ port: links.listener.port }).connect();
    if (words !== '') await stream.write([Buffer.from(words, 'latin1')]);
    stream.abort(leaving);
  }
  await guest.move(links, incoming);
});

/** The hello of an honest source of this guest. */
function hello(): HelloFrame {
  const { memory, devices, description } = guest.vm;
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId: '0123456789abcdef0123456789abcdef',
    software: 'crafted/1',
    pageSize: memory.pageSize,
    blocks: memory.blocks.map(({ id, guestPhysicalAddress, byteLength }) => ({
      id,
      guestPhysicalAddress,
      byteLength,
      identity: '',
    })),
    devices: devices.map(({ id, version }) => ({ id, version, stateBytes: 0 })),
    features: [],
    pageChannels: 0,
    description,
    connection: 1,
    stage: 'running',
    attempt: 1,
  };
}

const PAGE = 4096;
const lastPage = () => pagesOf(guest.vm.memory, guest.vm.memory.blocks[0] as RamBlock) - 1;
const pages = (block: number, ...runs: readonly number[]): Frame => ({ type: 'pages', round: 1, block, runs });

test.each<readonly [string, ErrorCode, RegExp, () => readonly [Frame, number?]]>([
  [
    'versions that are too new',
    'GODWIT_VERSION_MISMATCH',
    /the source \(crafted\/1\) speaks protocol versions 7 to 9, this destination \(godwit\/.*\) 2 to 2; upgrade the older side/,
    () => [{ ...hello(), minimumVersion: 7, maximumVersion: 9 }],
  ],
  [
    'a version that is too old',
    'GODWIT_VERSION_MISMATCH',
    /speaks protocol versions 0 to 0, this destination .* 2 to 2/,
    () => [{ ...hello(), minimumVersion: 0, maximumVersion: 0 }],
  ],
  [
    'a description of some other machine',
    'GODWIT_MEMORY_MISMATCH',
    /RAM block 0 is "ram-low" with 4096 bytes at 0x0 at the source, but "ram-low" with 33554432 bytes at 0x0 at the dest/,
    () => [{ ...hello(), blocks: [{ id: 'ram-low', guestPhysicalAddress: 0, byteLength: PAGE, identity: '' }] }],
  ],
  [
    'a page behind the end of a block',
    'GODWIT_OUT_OF_RANGE',
    /a "pages" frame names pages 8191 to 8192 of RAM block "ram-low", which has 8192/,
    () => [pages(0, lastPage(), 2), 2 * PAGE],
  ],
  [
    'a block that does not exist',
    'GODWIT_OUT_OF_RANGE',
    /a "pages" frame names RAM block 9; there are 1/,
    () => [pages(9, 0, 1), PAGE],
  ],
  [
    'a zero page of a block that does not exist',
    'GODWIT_OUT_OF_RANGE',
    /a "zeroPages" frame names RAM block 1; there are 1/,
    () => [{ type: 'zeroPages', round: 1, block: 1, runs: [0, 1] }],
  ],
  [
    'runs that overlap',
    'GODWIT_PROTOCOL',
    /a "pages" frame has runs that .*overlap.* \(page 3, 2 pages\)/,
    () => [pages(0, 0, 4, 3, 2), 6 * PAGE],
  ],
  [
    'fewer bytes than pages',
    'GODWIT_PROTOCOL',
    /"pages" frame.* 2 pages.* 4096 bytes|4096 bytes.*2 pages/,
    () => [pages(0, 0, 2), PAGE],
  ],
  [
    'more payload than was agreed on',
    'GODWIT_LIMIT_EXCEEDED',
    /a "pages" frame has 8388608 bytes of payload; at most 4194304 were agreed on/,
    () => [pages(0, 0, 2048), 8 * 2 ** 20],
  ],
  [
    'go before its time',
    'GODWIT_PROTOCOL',
    /sent "go" on the control stream in phase "receiving"/,
    () => [{ type: 'go', attempt: 1 }],
  ],
])(
  'a source that sends %s is refused, and both sides know why; the next one is served',
  async (_, code, message, craft) => {
    const incoming = guest.receive(links);
    const stream = frameStream(await tcp({ port: links.listener.port }).connect());
    const [frame, payloadBytes] = craft();
    const heard: (ReceivedFrame | null)[] = [];
    if (frame.type !== 'hello') {
      await stream.write(hello());
      heard.push(await stream.read());
      expect(heard[0]?.frame).toMatchObject({ type: 'welcome', version: 2 });
    }
    // The frame may be refused before the peer has read all of it.
    stream.write(frame, payloadBytes === undefined ? undefined : [new Uint8Array(payloadBytes)]).catch(() => {});
    const [destination, words] = await Promise.all([failureOf(incoming.result), listenToTheEnd(stream)]);
    expect(destination).toMatchObject({ code, remote: false });
    expect(destination.message).toMatch(message);
    expect(words).toEqual([{ type: 'error', code, message: destination.message, retry: false }]);
    await guest.move(links);
  },
);
