import { randomFillSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import {
  type GuestMemory,
  type MigratableVm,
  migrate,
  RAM_WINDOW_BYTES,
  receive,
  reclaim,
  SoftwareTracker,
} from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory, type MappedRamBlock } from '@godwit/linux';
import { MemoryAdvice, madvise } from '@godwit/linux/unstable';
import { connectTo, type Listener, listenOn, type Transport, tcp, tls, unix } from '@godwit/transport';
import { type AttachableMemory, onWorkers } from '@godwit/workers';
import { listenRaw, receiveRaw, sendRaw, sendSpliced } from './raw-loop.js';
import { receiveRawTls, sendRawTls, type TlsPems } from './raw-tls.js';

/** What guest memory is made of; `auto`: anonymous memory in huge pages where the host has them. */
export type Backing = 'file' | 'auto';

/**
 * The destination's memory when bytes arrive: a memory file that is populated, one that is all holes, anonymous memory that is all holes
 * (in huge pages where the host has them), or one small buffer.
 */
export type MemoryKind = 'ready' | 'fresh' | 'huge' | 'reused buffer';

/** The path of the pages: the sockets, the number of page channels, and whether these are on worker threads. */
export type PagePath = {
  readonly channels: number;
  readonly workers: boolean;
} & (RawSocket | { readonly over: 'unix' });

/** The sockets of a raw loop. */
export type RawSocket =
  | { readonly over: 'tcp'; readonly spliced?: boolean }
  | { readonly over: 'tls'; readonly pems: TlsPems };

export type PeerCommand =
  | { readonly type: 'fill'; readonly byteLength: number; readonly backing: Backing }
  | {
      readonly type: 'receive raw';
      readonly byteLength: number;
      readonly memory: MemoryKind;
      readonly socket: RawSocket;
    }
  | { readonly type: 'send raw'; readonly port: number; readonly socket: RawSocket }
  | {
      readonly type: 'receive';
      readonly byteLength: number;
      readonly memory: MemoryKind;
      readonly path: PagePath;
      readonly observed: boolean;
    }
  | { readonly type: 'migrate'; readonly address: string; readonly path: PagePath; readonly observed: boolean };

export type PeerReply =
  | { readonly type: 'done' }
  | { readonly type: 'listening'; readonly port: number }
  | { readonly type: 'receiving'; readonly address: string }
  | { readonly type: 'received raw'; readonly ms: number }
  | { readonly type: 'migrated'; readonly figures: Figures }
  | { readonly type: 'received'; readonly extraResidentBytes: number | undefined };

export interface Figures {
  /** Milliseconds from the first page to the acknowledgement of the last. */
  readonly ramMs: number;
  readonly totalMs: number;
  readonly wireBytes: number;
  /** Only for an observed migration: sampling every millisecond takes a tenth of the time on a busy machine. */
  readonly observed: Observed | undefined;
}

export interface Observed {
  readonly eventLoopDelayP99Ms: number;
  /** The largest increase of resident memory during the migration, without the guest's own memory. */
  readonly extraResidentBytes: number;
}

const PIECE_BYTES = 2 ** 20;
let guest: MappedGuestMemory | undefined;

process.on('message', (command: PeerCommand) => {
  void perform(command).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
process.on('disconnect', () => process.exit());

async function perform(command: PeerCommand): Promise<void> {
  switch (command.type) {
    case 'fill':
      guest = createGuestMemory({ backing: command.backing, blocks: [block(command.byteLength)] });
      fill(guest);
      reply({ type: 'done' });
      break;
    case 'send raw':
      await sendAll(command.port, command.socket);
      reply({ type: 'done' });
      break;
    case 'receive raw': {
      if (command.socket.over === 'tls') {
        const { port, ms } = await receiveRawTls(command.socket.pems, command.byteLength);
        reply({ type: 'listening', port });
        reply({ type: 'received raw', ms: await ms });
        break;
      }
      const backing: Backing = command.memory === 'huge' ? 'auto' : 'file';
      const memory =
        command.memory === 'reused buffer'
          ? undefined
          : createGuestMemory({ backing, blocks: [block(command.byteLength)] });
      if (memory !== undefined && command.memory === 'ready') touch(memory);
      const { fd, port } = listenRaw();
      reply({ type: 'listening', port });
      const into = memory?.blocks[0]?.hostAddress ?? Buffer.alloc(PIECE_BYTES);
      // The reply must be sent before the loop blocks this thread.
      await new Promise((resolve) => setImmediate(resolve));
      const ms = receiveRaw(fd, into, command.byteLength, PIECE_BYTES);
      memory?.close();
      reply({ type: 'received raw', ms });
      break;
    }
    case 'migrate':
      reply({ type: 'migrated', figures: await runMigration(command.address, command.path, command.observed) });
      break;
    case 'receive':
      await runIncoming(command);
      break;
  }
}

/** Sends the guest's memory by a raw loop. */
async function sendAll(port: number, socket: RawSocket): Promise<void> {
  if (socket.over === 'tls') return sendRawTls(socket.pems, port, windowsOf(source()));
  const { hostAddress, byteLength } = source().blocks[0] as MappedRamBlock;
  if (socket.spliced) sendSpliced(port, hostAddress, byteLength);
  else sendRaw(port, hostAddress, byteLength, PIECE_BYTES);
}

async function runMigration(address: string, path: PagePath, observed: boolean): Promise<Figures> {
  const resident = observed ? watchResident() : undefined;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const { workers, channels } = path;
  const connector = connectTo(connectingTo(new URL(address), path));
  const vm = still(source());
  const migration = migrate(vm, workers ? onWorkers(connector) : connector, { pageChannels: channels });
  migration.subscribe({
    next: (event) => {
      if (observed && event.type === 'state' && event.state === 'active') delay.enable();
    },
    error: () => {},
  });
  const summary = await migration.result;
  delay.disable();
  reclaim(vm, { because: 'its vCPUs do nothing at either end, and the destination frees what it received' });
  return {
    ramMs: summary.rounds.reduce((sum, round) => sum + round.totalMs, 0),
    totalMs: summary.totalMs,
    wireBytes: summary.wireBytes,
    observed: resident && {
      eventLoopDelayP99Ms: delay.percentile(99) / 1e6,
      extraResidentBytes: resident.stop(),
    },
  };
}

async function runIncoming(command: Extract<PeerCommand, { type: 'receive' }>): Promise<void> {
  const { byteLength, memory: kind, path, observed } = command;
  const memory = createGuestMemory({ blocks: [block(byteLength)] });
  if (kind === 'ready') touch(memory);
  const { workers, channels } = path;
  const listening = await listenOn<Listener>(listeningOn(path));
  const listener = workers ? onWorkers(listening, { threads: channels }) : listening;
  const vm = still(kind === 'ready' ? withoutHoles(memory) : memory);
  const resident = observed ? watchResident() : undefined;
  const incoming = receive(listener, { prepare: () => vm });
  reply({ type: 'receiving', address: listener.address });
  await incoming.result;
  const extraResidentBytes = resident?.stop();
  await listener.close();
  memory.close();
  reply({ type: 'received', extraResidentBytes });
}

function listeningOn(path: PagePath): Transport {
  const local = { host: '127.0.0.1', port: 0 };
  if (path.over === 'unix') return unix({ path: join(tmpdir(), `godwit-bench-${process.pid}.socket`) });
  return path.over === 'tcp' ? tcp(local) : tls({ ...local, ...credentials(path.pems) });
}

function connectingTo({ hostname: host, port, pathname }: URL, path: PagePath): Transport {
  if (path.over === 'unix') return unix({ path: pathname });
  const there = { host, port: Number(port) };
  return path.over === 'tcp' ? tcp(there) : tls({ ...there, ...credentials(path.pems) });
}

function credentials({ authority, cert, key }: TlsPems) {
  return { ca: authority, cert, key };
}

function windowsOf(memory: MappedGuestMemory): Uint8Array[] {
  return memory.blocks.flatMap((one) =>
    Array.from({ length: Math.ceil(one.byteLength / RAM_WINDOW_BYTES) }, (_, i) =>
      one.view(i * RAM_WINDOW_BYTES, Math.min(RAM_WINDOW_BYTES, one.byteLength - i * RAM_WINDOW_BYTES)),
    ),
  );
}

function block(byteLength: number) {
  return { id: 'ram', guestPhysicalAddress: 0, byteLength };
}

function source(): MappedGuestMemory {
  if (guest === undefined) throw new Error('the memory was not filled');
  return guest;
}

/** Fills the memory with random bytes, different in every page. */
function fill(memory: MappedGuestMemory): void {
  const random = randomFillSync(new Uint8Array(64 * 2 ** 20));
  for (const { byteLength, view } of memory.blocks.map((one) => ({
    byteLength: one.byteLength,
    view: one.view.bind(one),
  }))) {
    for (let at = 0; at < byteLength; at += random.byteLength) {
      const window = view(at, Math.min(random.byteLength, byteLength - at));
      window.set(random.subarray(0, window.byteLength));
      for (let page = 0; page < window.byteLength; page += 4096)
        new DataView(window.buffer, window.byteOffset + page).setFloat64(0, at + page);
    }
  }
}

/** Populates every page before the measurement, so that it does not include the kernel's page faults. */
function touch(memory: MappedGuestMemory): void {
  for (const { hostAddress, byteLength } of memory.blocks)
    madvise(hostAddress, byteLength, MemoryAdvice.MADV_POPULATE_WRITE);
}

/** The memory without holes and `discard`, as for an embedder that keeps all of it allocated. */
function withoutHoles(memory: MappedGuestMemory): AttachableMemory {
  return {
    pageSize: memory.pageSize,
    blocks: memory.blocks.map((one) => ({
      id: one.id,
      guestPhysicalAddress: one.guestPhysicalAddress,
      byteLength: one.byteLength,
      view: (offset: number, length: number) => one.view(offset, length),
    })),
    attachment: () => ({
      pageSize: memory.pageSize,
      blocks: memory.blocks.map(({ id, guestPhysicalAddress, byteLength, hostAddress }) => ({
        id,
        guestPhysicalAddress,
        byteLength,
        hostAddress,
      })),
    }),
  };
}

/** A guest whose vCPUs do nothing: only the transfer of its memory is measured. */
function still(memory: GuestMemory): MigratableVm {
  return {
    memory,
    trackers: [new SoftwareTracker(memory)],
    devices: [],
    pause: async () => {},
    resume: async () => {},
  };
}

/** Samples resident memory that is not the guest's (which is shared memory, RssShmem in proc(5)). */
function watchResident(): { stop(): number } {
  const now = () => {
    const status = readFileSync('/proc/self/status', 'utf8');
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
    return (kib('RssAnon') + kib('RssFile')) * 1024;
  };
  const before = now();
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, now());
  }, 25);
  return {
    stop() {
      clearInterval(timer);
      return Math.max(most, now()) - before;
    },
  };
}

function reply(message: PeerReply): void {
  process.send?.(message);
}
