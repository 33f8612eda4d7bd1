import { receive } from '../destination/incoming-migration.js';
import { migrate } from '../migrate.js';
import type { EncodingFixture } from './encoding-fixture.js';
import { pagesOfAGuest } from './encoding-samples.js';
import { memoryLink } from './memory-link.js';
import { ToyFaultService } from './toy-fault-service.js';
import { ToyVm } from './toy-vm.js';

/** Pages of the guest. */
const PAGES = 512;

/** Rounds with the guest running. */
const ROUNDS = 5;

/** The way in which the guest is moved. */
export interface EncodedMove {
  readonly pageChannels: number;
  /** Whether the link is lost while encoded pages are in flight, and made anew. */
  readonly cut: boolean;
  /** Whether the guest is moved by post-copy after half of the rounds, so that the pages that it has written follow. */
  readonly postcopy: boolean;
}

/** Moves a guest, which writes meanwhile, with the encoding. Returns the failures, in words. */
export async function migrateEncoded(
  fixture: EncodingFixture,
  pageSize: number,
  { pageChannels, cut, postcopy }: EncodedMove,
): Promise<string | undefined> {
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * pageSize }];
  const source = new ToyVm(blocks, { pageSize });
  const destination = new ToyVm(blocks, { running: false, pageSize });
  const contents = fixture.sample ?? pagesOfAGuest(PAGES, pageSize, 11);
  for (let at = 0; at < PAGES * pageSize; at += contents.length) {
    source.write(0, at, contents.subarray(0, PAGES * pageSize - at));
  }
  let frames = 0;
  // By post-copy only the pages that follow the guest count.
  let counting = !postcopy;
  // The pages that follow may be so few that they fit into one frame.
  const enough = postcopy ? 1 : 2;
  const link = memoryLink({
    copies: 'late',
    fromSource(frame, payload) {
      if (frame.type === 'go') counting = true;
      if (frame.type !== 'compressedPages' || !counting) return { frame, payload };
      if (++frames !== enough || !cut) return { frame, payload };
      link.cut();
      return undefined;
    },
  });
  const incoming = receive(link.listener, {
    prepare: () => destination,
    encodings: [fixture.make()],
    ...(postcopy && { faults: new ToyFaultService() }),
  });
  const last = postcopy ? ('postcopy' as const) : ('switchover' as const);
  const rounds = postcopy ? Math.floor(ROUNDS / 2) : ROUNDS;
  const migration = migrate(source, link.connector, {
    encodings: [fixture.make()],
    adaptiveEncodings: false,
    pageChannels,
    verify: !postcopy,
    postcopy,
    policy: ({ outcome }) => ({ action: outcome.round < rounds ? 'continue' : last, reason: 'the suite' }),
  });
  let turn = 0;
  migration.subscribe({
    next({ type }) {
      if (!source.running || type !== 'round') return;
      // The guest rewrites a few bytes of some pages, and copies pages to other places; by post-copy it only copies, since deltas do not
      // help with copies.
      for (let page = turn++ % 3; page < PAGES; page += 3) {
        if (!postcopy) source.write(0, page * pageSize + ((page * 97) % (pageSize - 4)), Uint8Array.of(page, turn, 7));
        const from = ((page * 31) % Math.max(1, contents.length / pageSize)) * pageSize;
        if (postcopy || page % 5 === 0) source.write(0, page * pageSize, contents.subarray(from, from + pageSize));
      }
    },
    error: () => {},
  });
  const [sent, received] = await Promise.allSettled([migration.result, incoming.result]);
  if (sent.status === 'rejected') return `the source says: ${String(sent.reason)}`;
  if (received.status === 'rejected') return `the destination says: ${String(received.reason)}`;
  if (frames < enough) {
    return 'hardly any page went in this encoding: set `sample` to contents that it makes smaller';
  }
  const difference = destination.memory.firstDifference(source.memory);
  return difference === undefined ? undefined : `the memory of both sides differs: ${JSON.stringify(difference)}`;
}
