import { randomFillSync } from 'node:crypto';
import {
  type GuestMemory,
  type MigratableVm,
  type MigrationSummary,
  migrate,
  receive,
  SoftwareTracker,
} from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { listenOn, tcp } from '@godwit/transport';
import type { Report } from '../report.js';
import { CutLine } from './cut-line.js';

const PAGE_CHANNELS = 2;

interface Run {
  readonly summary: MigrationSummary;
  readonly line: CutLine;
  readonly reconnects: number;
}

/**
 * The same guest over loopback TCP twice: over one connection, and over a link that is cut ten times. What the second run
 * sends more must be less than what was in flight when it was cut: nothing that the destination had is sent again.
 */
export async function cutsBenchmark(options: { readonly byteLength: number; readonly cuts: number }): Promise<Report> {
  const { byteLength, cuts } = options;
  const source = createGuestMemory({ blocks: [block(byteLength)] });
  try {
    fill(source);
    const whole = await run(source, byteLength, 0);
    const cut = await run(source, byteLength, cuts);
    const inFlight = cut.line.inFlight(source.pageSize);
    const sum = inFlight.reduce((total, bytes) => total + bytes, 0);
    const again = cut.line.handed - whole.line.handed;
    return {
      benchmark: `cuts: ${byteLength / 2 ** 20} MiB over loopback TCP, ${PAGE_CHANNELS} page channels, the link cut ${cuts} times`,
      rows: [
        { name: 'wire bytes, not cut', value: whole.line.handed, unit: 'bytes' },
        { name: 'wire bytes, cut', value: cut.line.handed, unit: 'bytes' },
        { name: 'sent more', value: again, unit: 'bytes', atMost: sum },
        { name: 'in flight at the cuts, all together', value: sum, unit: 'bytes' },
        { name: 'reconnected', value: cut.reconnects, unit: 'times', atLeast: cuts, atMost: cuts },
        { name: 'total time, not cut', value: whole.summary.totalMs, unit: 'ms' },
        { name: 'total time, cut', value: cut.summary.totalMs, unit: 'ms' },
      ],
      notes: [
        `in flight at each cut: ${inFlight.map((bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`).join(', ')}`,
        'the RAM of both sides was compared, page by page, after each run',
      ],
    };
  } finally {
    source.close();
  }
}

async function run(source: MappedGuestMemory, byteLength: number, cuts: number): Promise<Run> {
  const destination = createGuestMemory({ blocks: [block(byteLength)] });
  const links = await listenOn(tcp({ port: 0 }));
  try {
    const line = new CutLine(tcp({ port: links.listener.port }), cuts, byteLength / (cuts + 1));
    const reception = receive(links, { prepare: () => still(destination) });
    const migration = migrate(still(source), line.connector, { verify: true, pageChannels: PAGE_CHANNELS });
    let reconnects = 0;
    migration.subscribe({
      next: (event) => {
        if (event.type === 'reconnected') reconnects++;
      },
      error: () => {},
    });
    const [summary] = await Promise.all([migration.result, reception.result]);
    return { summary, line, reconnects };
  } finally {
    await links.close();
    destination.close();
  }
}

function block(byteLength: number) {
  return { id: 'ram', guestPhysicalAddress: 0, byteLength };
}

/** Random bytes, different in every page. */
function fill(memory: GuestMemory): void {
  const step = 2 ** 24;
  for (const block of memory.blocks) {
    for (let at = 0; at < block.byteLength; at += step) {
      randomFillSync(block.view(at, Math.min(step, block.byteLength - at)));
    }
  }
}

/** A guest that does nothing: what is sent twice was sent twice by us. */
function still(memory: GuestMemory): MigratableVm {
  return {
    memory,
    trackers: [new SoftwareTracker(memory)],
    devices: [],
    pause: async () => {},
    resume: async () => {},
  };
}
