import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { sweepImage } from '@godwit/example-node-vmm/guest';
import { Letters } from '../letters.js';
import { randomMemory } from '../memory/random-memory.js';
import type { Departure, GuestSpec, MoveSettings, Patience, VmmProcess } from '../vmm.js';
import { faultLatencies, QemuMigration, setUp } from './qemu-migration.js';
import { Qmp } from './qmp.js';
import type { UnpackedQemu } from './unpacked-qemu.js';

const MIB = 2 ** 20;
const PAGE = 4096;
/** Characters of the end of QEMU's standard error that are kept for messages. */
const COMPLAINT_CHARACTERS = 2000;

let count = 0;

/** One QEMU, with the sweep guest as its disk, its serial port on a socket and QMP on its standard streams. */
export class QemuProcess implements VmmProcess {
  readonly #child: ChildProcess;
  readonly #qmp: Qmp;
  readonly #spec: GuestSpec;
  readonly #scratch: string;
  readonly #files: string[];
  readonly #serial: Server;
  /** Resolves when QEMU has ended; never rejects. */
  readonly #exited: Promise<void>;
  #socket: Socket | undefined;
  readonly #letters = new Letters();
  #complaint = '';

  private constructor(child: ChildProcess, serial: Server, spec: GuestSpec, scratch: string, files: string[]) {
    this.#child = child;
    this.#spec = spec;
    this.#scratch = scratch;
    this.#files = files;
    this.#serial = serial;
    this.#qmp = new Qmp(child.stdout as Readable, child.stdin as Writable);
    serial.on('connection', (socket) => {
      this.#socket = socket;
      socket.on('data', (text) => this.#letters.hear(text.toString('latin1')));
      socket.on('error', () => {});
    });
    child.stderr?.on('data', (text) => {
      this.#complaint = (this.#complaint + text).slice(-COMPLAINT_CHARACTERS);
    });
    this.#exited = once(child, 'close')
      .then(
        ([status, signal]) => `QEMU ended with ${signal ?? `status ${status}`}: ${this.#complaint.trim()}`,
        (error: Error) => `QEMU cannot be started: ${error.message}`,
      )
      .then((reason) => {
        this.#qmp.close(new Error(reason));
        this.#letters.fail(new Error(reason));
      });
    process.once('exit', this.#kill);
  }

  /**
   * @param role `source`: the guest runs; `destination`: it waits for one
   * @param scratch a folder in memory for its files
   */
  static async start(
    qemu: UnpackedQemu,
    spec: GuestSpec,
    role: 'source' | 'destination',
    scratch: string,
  ): Promise<QemuProcess> {
    const own = join(scratch, `qemu-${count++}`);
    const files = [`${own}.img`, `${own}.com1`];
    const [disk, com1] = files as [string, string];
    writeFileSync(disk, sweepImage(spec.sweep));
    const serial = createServer();
    serial.listen(com1);
    await once(serial, 'listening');
    const [program, ...args] = qemu.command;
    const memory = memoryBackend(spec, role, scratch);
    const child = spawn(
      program,
      [
        ...args,
        ...['-machine', `pc,accel=kvm${memory === undefined ? '' : ',memory-backend=pc.ram'}`],
        ...(memory === undefined ? [] : ['-object', memory]),
        ...['-smp', '1', '-m', `${spec.memoryBytes / MIB}M`],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none'],
        ...['-drive', `file=${disk},format=raw,if=ide`],
        ...['-chardev', `socket,id=com1,path=${com1}`, '-serial', 'chardev:com1'],
        ...['-qmp', 'stdio'],
        ...(role === 'destination' ? ['-incoming', 'defer'] : []),
      ],
      { env: { ...process.env, ...qemu.environment }, stdio: ['pipe', 'pipe', 'pipe'] },
    );
    const started = new QemuProcess(child, serial, spec, scratch, files);
    try {
      await started.#qmp.execute('qmp_capabilities');
      return started;
    } catch (error) {
      await started.close();
      throw error;
    }
  }

  printed(letter: string): Promise<void> {
    return this.#letters.printed(letter);
  }

  async listen(settings: MoveSettings): Promise<number> {
    await setUp(this.#qmp, settings);
    await this.#qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' });
    const { 'socket-address': addresses } = await this.#qmp.execute<{
      'socket-address'?: readonly { readonly port: string }[];
    }>('query-migrate');
    const port = Number(addresses?.[0]?.port);
    if (!(port > 0)) throw new Error('QEMU does not say on which port it listens');
    return port;
  }

  async send(port: number, settings: MoveSettings, patience: Patience): Promise<Departure> {
    await setUp(this.#qmp, settings);
    const postcopy = settings.postcopyBytesPerSecond !== undefined;
    return new QemuMigration(this.#qmp).run(`tcp:127.0.0.1:${port}`, patience, postcopy);
  }

  async arrival(): Promise<number> {
    return (await this.#qmp.event(({ event }) => event === 'RESUME')).atMs;
  }

  faultLatencies(): Promise<readonly number[]> {
    return faultLatencies(this.#qmp);
  }

  async save(path: string, settings: MoveSettings): Promise<void> {
    await setUp(this.#qmp, settings, 'file');
    await new QemuMigration(this.#qmp).run(`file:${path}`);
  }

  async restore(path: string, settings: MoveSettings): Promise<void> {
    await setUp(this.#qmp, settings, 'file');
    await this.#qmp.execute('migrate-incoming', { uri: `file:${path}` });
  }

  async firstBytes(): Promise<Uint8Array> {
    const { first, end } = this.#spec.sweep;
    const path = join(this.#scratch, `dump-${count++}`);
    await this.#qmp.execute('stop');
    try {
      await this.#qmp.execute('pmemsave', { val: first, size: end - first, filename: path });
      const bytes = readFileSync(path);
      return Uint8Array.from({ length: (end - first) / PAGE }, (_, page) => bytes[page * PAGE] as number);
    } finally {
      rmSync(path, { force: true });
    }
  }

  async close(): Promise<void> {
    this.#kill();
    await this.#exited;
    process.removeListener('exit', this.#kill);
    this.#socket?.destroy();
    await new Promise((resolve) => this.#serial.close(resolve));
    for (const path of this.#files) rmSync(path, { force: true });
  }

  readonly #kill = (): void => {
    this.#child.kill('SIGKILL');
  };
}

/** The backend of the guest's memory; undefined for QEMU's default: private memory, in huge pages where the host has them. */
function memoryBackend(spec: GuestSpec, role: 'source' | 'destination', scratch: string): string | undefined {
  const size = `id=pc.ram,size=${spec.memoryBytes},share=on`;
  // The pages are mapped from the start, as those of a guest that has written them.
  if (spec.random && role === 'source')
    return `memory-backend-file,${size},mem-path=${randomFile(scratch, spec)},prealloc=on`;
  return spec.memoryFile ? `memory-backend-memfd,${size}` : undefined;
}

/** A memory file with random bytes from 1 MiB on, which is made once and used by one QEMU after the other. */
function randomFile(scratch: string, { memoryBytes }: GuestSpec): string {
  const path = join(scratch, `random-${memoryBytes}`);
  if (existsSync(path)) return path;
  const partial = `${path}.partial`;
  const file = openSync(partial, 'w');
  try {
    for (const { address, bytes } of randomMemory(MIB, memoryBytes)) writeSync(file, bytes, 0, bytes.length, address);
  } finally {
    closeSync(file);
  }
  renameSync(partial, path);
  return path;
}
