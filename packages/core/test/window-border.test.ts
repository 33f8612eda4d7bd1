import { type Frame, type FrameStream, type GuestMemory, PageRunList } from '@godwit/core';
import { LocalPageChannel } from '@godwit/core/pages';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const { MemoryWindows } = engineParts;

const GIB = 2 ** 30;
const PAGE = 4096;

test('pages on both sides of a window border go out in one batch, each from its own window', async () => {
  const windows = [new Uint8Array(GIB), new Uint8Array(GIB)];
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [
      {
        id: 'ram',
        guestPhysicalAddress: 0,
        byteLength: 2 * GIB,
        view: (offset, length) =>
          (windows[Math.floor(offset / GIB)] as Uint8Array).subarray(offset % GIB, (offset % GIB) + length),
      },
    ],
  };
  const border = GIB / PAGE;
  (windows[0] as Uint8Array)[GIB - PAGE] = 1;
  (windows[1] as Uint8Array)[0] = 2;
  const sent: { frame: Frame; payload: number[] }[] = [];
  const stream = {
    bytesWritten: 0,
    write: async (frame: Frame, payload: readonly Uint8Array[] = []) => {
      sent.push({ frame, payload: payload.map((chunk) => chunk[0] as number) });
    },
  } as unknown as FrameStream;
  const channel = new LocalPageChannel(stream, new MemoryWindows(memory), new VirtualClock());
  const runs = new PageRunList();
  runs.pushApart(border - 1, 1);
  runs.pushApart(border, 1);
  await channel.send({ round: 1, blockIndex: 0, runs, holes: new PageRunList(), limit: 0 });
  expect(sent).toEqual([
    { frame: { type: 'pages', round: 1, block: 0, runs: [border - 1, 1, border, 1] }, payload: [1, 2] },
  ]);
});
