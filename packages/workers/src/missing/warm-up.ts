import { MemoryWindows, PageQueue, RequestAnswers } from '@godwit/core/pages';
import { addressOf, closeFd, eventfd, MapFlags, mmap, munmap, socketPair } from '@godwit/linux/unstable/libc';
import { Uffd, Userfaultfd } from '@godwit/linux/userfaultfd';
import { frameStream } from '@godwit/transport/framing';
import { DescriptorStream } from '../descriptor-stream.js';
import { FaultLoop } from './fault-loop.js';
import { FaultStatistics } from './fault-statistics.js';
import { readAnswer, type UrgentLink } from './link-pages.js';
import { ControlWord, type FaultOrder, type ServedMemoryParts } from './missing-messages.js';
import { MissingPages } from './missing-pages.js';

const PAGE = 4096;
/** Pages of the memory of the warm-up. */
const PAGES = 256;
/**
 * The number of requests for pages: V8 compiles a function after some hundred calls, and a first fault takes ten times as long as a late
 * one.
 */
const ROUNDS = 1024;
/** Requests after which `goOn` is called. */
const CHUNK = 16;

const PLAIN = { out: undefined, in: undefined, begun: true } as const;

/**
 * Asks for pages and answers, both on this thread, over a socket of its own, until V8 has compiled this code: once a vCPU waits, it is too
 * late. `goOn` is called now and then, and ends the warm-up when it resolves with false. Resolves with whether the warm-up was whole.
 */
export async function warmUpAnswers(goOn: () => boolean | Promise<boolean>): Promise<boolean> {
  const [near, far] = socketPair();
  const client = new DescriptorStream(near, 'itself', new Uint8Array(), counter(), 0);
  const server = new Server(far);
  try {
    const stream = frameStream(client, { checksums: PLAIN });
    const bytes = new Uint8Array(new ArrayBuffer(64 * PAGE));
    for (let i = 0; i < ROUNDS; i++) {
      if (i % CHUNK === 0 && !(await goOn())) return false;
      // The requested pages are far apart, so that no page is sent ahead.
      await stream.write({ type: 'requestPages', block: 0, page: (i * 67) % PAGES, pages: 1 });
      await server.answer();
      await readAnswer(stream, server.memory, bytes);
    }
    return true;
  } finally {
    client.free();
    server.close();
    closeFd(near);
  }
}

/**
 * Does the same for the thread that serves faults, with memory of its own in which pages are missing. Does nothing where such memory cannot
 * be made.
 */
export async function warmUpFaults(goOn: () => boolean | Promise<boolean>): Promise<void> {
  let uffd: Userfaultfd;
  try {
    uffd = Userfaultfd.open(0, 0);
  } catch {
    return;
  }
  const wake = eventfd(0);
  const byteLength = PAGES * PAGE;
  try {
    for (let done = 0; done < ROUNDS; done += PAGES) {
      const address = mmap({ byteLength, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS });
      try {
        uffd.register(address, byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
        if (!(await fetchAll({ uffd: uffd.fd, wake, address: Number(address) }, goOn))) return;
      } finally {
        munmap(address, byteLength);
      }
    }
  } catch {
    // A failure is ignored: the warm-up only makes later work faster.
  } finally {
    closeFd(wake);
    uffd.close();
  }
}

/** Fetches every page of a region over a link to a server of this thread. */
async function fetchAll(
  { uffd, wake, address }: { readonly uffd: number; readonly wake: number; readonly address: number },
  goOn: () => boolean | Promise<boolean>,
): Promise<boolean> {
  const [near, far] = socketPair();
  const server = new Server(far);
  const control = new Int32Array(new SharedArrayBuffer(ControlWord.count * 4));
  const words = () => new SharedArrayBuffer(PAGES / 8);
  const missing = new MissingPages({
    pages: [PAGES],
    missing: [words()],
    claimed: [words()],
    counts: new SharedArrayBuffer(8),
  });
  missing.wordsOf(0).fill(-1);
  const parts: ServedMemoryParts = {
    ...{ uffd, wake, pageSize: PAGE, blocks: [{ address, byteLength: PAGES * PAGE }] },
    ...{
      missing: missing.buffers,
      statistics: new FaultStatistics().storage,
      control: control.buffer as SharedArrayBuffer,
    },
    source: undefined,
  };
  const link: UrgentLink = {
    ...{ fd: near, peer: 'itself', unread: new Uint8Array(), checksums: PLAIN },
    received: counter().buffer as SharedArrayBuffer,
  };
  const orders: FaultOrder[] = [{ generation: 1, link }];
  const loop = new FaultLoop(
    parts,
    undefined,
    () => orders.shift(),
    () => {},
  );
  try {
    for (let i = 0; i < PAGES; i++) {
      if (i % CHUNK === 0 && !(await goOn())) return false;
      orders.push({ id: i, block: 0, page: (i * 67) % PAGES, pageCount: 1 });
      Atomics.add(control, ControlWord.orders, 1);
      loop.turn();
      await server.answer();
      loop.turn();
    }
    return true;
  } finally {
    Atomics.store(control, ControlWord.stop, 1);
    // `run` also closes the link.
    loop.run();
    server.close();
  }
}

/** Answers requests for the pages of a small memory. */
class Server {
  readonly memory: MemoryWindows['memory'];
  readonly #fd: number;
  readonly #stream: DescriptorStream;
  readonly #answers: RequestAnswers;

  constructor(fd: number) {
    this.#fd = fd;
    this.#stream = new DescriptorStream(fd, 'itself', new Uint8Array(), counter());
    const bytes = new Uint8Array(new ArrayBuffer(PAGES * PAGE));
    // A large buffer is not moved any more once its address was asked for.
    addressOf(bytes);
    this.memory = {
      pageSize: PAGE,
      blocks: [
        {
          ...{ id: 'none', guestPhysicalAddress: 0, byteLength: bytes.length },
          view: (offset, length) => bytes.subarray(offset, offset + length),
        },
      ],
    };
    this.#answers = new RequestAnswers(frameStream(this.#stream, { checksums: PLAIN }), {
      windows: new MemoryWindows(this.memory).open(),
      queue: PageQueue.create(this.memory),
      open: Int32Array.of(1),
    });
  }

  async answer(): Promise<void> {
    await this.#answers.next();
  }

  close(): void {
    this.#stream.free();
    closeFd(this.#fd);
  }
}

function counter(): BigInt64Array<SharedArrayBuffer> {
  return new BigInt64Array(new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT));
}
