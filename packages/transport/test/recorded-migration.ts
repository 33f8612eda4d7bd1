import {
  type Frame,
  type GodwitError,
  type LinkConnector,
  type MigrateOptions,
  migrate,
  type Received,
  receive,
} from '@godwit/core';
import { type MemoryLinkOptions, memoryLink, ToyVm } from '@godwit/core/testing';
import { type RecordedItem, type Recording, readRecording } from '@godwit/transport';

export const PAGE = 4096;

/** A frame as a test compares it: on which stream, from whom, and the bytes of its payload. */
export interface SeenFrame {
  readonly stream: number;
  readonly sender: 'source' | 'destination';
  readonly frame: Frame;
  readonly payload: string;
}

export interface RecordedMigration {
  readonly source: ToyVm;
  readonly destination: ToyVm;
  /** What passed the link, in the order in which it took it. */
  readonly seen: readonly SeenFrame[];
  readonly sent: PromiseSettledResult<unknown>;
  readonly received: PromiseSettledResult<Received>;
}

export interface RecordedMigrationOptions {
  readonly pages?: number;
  readonly recordedAt?: 'source' | 'destination';
  readonly link?: MemoryLinkOptions;
  readonly migrate?: MigrateOptions;
  /** Called for every frame from the source, before it is delivered. */
  readonly onFrame?: (frame: Frame, source: ToyVm, cut: () => void) => void;
  /** Called when the recorder has handed a frame of the source to the link, and the link has not read its payload. */
  readonly onHandedOver?: (frame: Frame, source: ToyVm) => void;
  /** The same as `onFrame` for frames from the destination. */
  readonly onAnswer?: (frame: Frame) => void;
  /** The destination says nothing before this resolves. */
  readonly prepared?: () => Promise<void>;
  /** The source's dirty log is not read before this resolves. */
  readonly harvested?: () => Promise<void>;
}

/** Moves a guest of `pages` pages, every second one filled and one that was zeroed, over memory, and records it. */
export async function recordedMigration(
  recording: Recording,
  options: RecordedMigrationOptions = {},
): Promise<RecordedMigration> {
  const { pages = 64, recordedAt = 'source', onFrame, onAnswer, onHandedOver, prepared, harvested } = options;
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }];
  const source = new ToyVm(blocks);
  const destination = new ToyVm(blocks, { running: false });
  for (let page = 0; page < pages; page += 2) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(1 + (page % 255)));
  source.write(0, PAGE, new Uint8Array(PAGE));
  const harvest = source.software.harvest.bind(source.software);
  source.software.harvest = async (into) => {
    await harvested?.();
    await harvest(into);
  };
  const seen: SeenFrame[] = [];
  const see = (sender: SeenFrame['sender']) => (frame: Frame, payload: Uint8Array | undefined, channel: number) => {
    if (sender === 'source') onFrame?.(frame, source, () => link.cut());
    else onAnswer?.(frame);
    seen.push({ stream: channel + 1, sender, frame: plain(frame), payload: hex(payload) });
    return { frame, payload };
  };
  const link = memoryLink({ ...options.link, fromSource: see('source'), fromDestination: see('destination') });
  const incoming = receive(recordedAt === 'destination' ? recording.listener(link.listener) : link.listener, {
    prepare: async () => {
      await prepared?.();
      return destination;
    },
    reconnectTimeoutMs: 0,
  });
  const carrier = meddling(link.connector, (frame) => onHandedOver?.(frame, source));
  const connector = recordedAt === 'source' ? recording.connector(carrier) : carrier;
  const migration = migrate(source, connector, { reconnectTimeoutMs: 0, ...options.migrate });
  const [sent, received] = await Promise.allSettled([migration.result, incoming.result]);
  return { source, destination, seen, sent, received };
}

/** The same links, with `onWrite` called first thing in each `write` on the control stream. */
function meddling(connector: LinkConnector, onWrite: (frame: Frame) => void): LinkConnector {
  return {
    async connect(request, signal) {
      const link = await connector.connect(request, signal);
      const write = link.control.write.bind(link.control);
      link.control.write = (frame, payload) => {
        onWrite(frame);
        return write(frame, payload);
      };
      return link;
    },
  };
}

export function codeOf(result: PromiseSettledResult<unknown>): string | undefined {
  return result.status === 'fulfilled' ? undefined : (result.reason as GodwitError).code;
}

/** All items, with the payloads of frames read. */
export async function itemsOf(
  bytes: AsyncIterable<Uint8Array>,
): Promise<{ items: RecordedItem[]; frames: SeenFrame[] }> {
  const items: RecordedItem[] = [];
  const frames: SeenFrame[] = [];
  for await (const item of readRecording(bytes)) {
    items.push(item);
    if (item.type !== 'frame') continue;
    const payload = new Uint8Array(item.payloadBytes);
    // A file that ends inside the payload is told by the next item, too.
    const torn = await item.readPayload([payload]).then(
      () => false,
      () => true,
    );
    if (torn) continue;
    const { stream = 0, sender = 'source' } = item.track ?? {};
    frames.push({ stream, sender, frame: item.frame, payload: hex(payload) });
  }
  return { items, frames };
}

/** The frames of each direction of each stream, in order. */
export function byTrack(frames: readonly SeenFrame[]): Record<string, SeenFrame[]> {
  const tracks: Record<string, SeenFrame[]> = {};
  for (const frame of frames) {
    const track = `${frame.stream} from the ${frame.sender}`;
    tracks[track] ??= [];
    tracks[track]?.push(frame);
  }
  return tracks;
}

export async function* inPieces(bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function hex(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('hex');
}

function plain(frame: Frame): Frame {
  return JSON.parse(JSON.stringify(frame));
}
