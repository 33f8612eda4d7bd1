import { execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { type GodwitError, type MigrationEvent, migrate } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { connectTo, tcp } from '@godwit/transport';
import { expect, jest, test } from '@jest/globals';

jest.setTimeout(60_000);

/** The command that runs a program, of modules, with at most 512 descriptors. */
const shellCommand = (program: string): readonly [string, readonly string[], { readonly env: NodeJS.ProcessEnv }] => [
  'sh',
  ['-c', `ulimit -n 512; exec '${process.execPath}' --input-type=module -e "$PROGRAM"`],
  { env: { ...process.env, PROGRAM: program } },
];

/** Opens files until there are no more descriptors, and then connects, listens and opens a snapshot. */
const CARRIERS = `
import { openSync } from 'node:fs';
import { connectTo, file, listenOn, tcp, unix } from '@godwit/transport';
const links = await listenOn(tcp({ port: 0 }));
const outcome = (work) => work.then(() => 'done', ({ code, message, cause }) => ({ code, message, cause: cause?.code }));
await outcome(unix({ path: '/no/such.sock' }).connect());
try { for (;;) openSync('/dev/null'); } catch {}
const request = { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 };
const signal = AbortSignal.timeout(20_000);
const outcomes = [
  await outcome(tcp({ port: links.listener.port }).connect()),
  await outcome(tcp({ port: 0 }).listen()),
  await outcome(listenOn(unix({ path: '/tmp/godwit-emfile.sock' }))),
  await outcome(connectTo(file({ path: '/tmp/godwit-emfile.snapshot' })).connect(request, signal)),
  await outcome(listenOn(file({ path: process.execPath })).then((restoring) => restoring.accept(signal))),
];
process.stdout.write(JSON.stringify(outcomes), () => process.exit());
`;

test('a process with too many open files is told so by name, in the message and in the cause', async () => {
  const { stdout } = await promisify(execFile)(...shellCommand(CARRIERS));
  const outcomes = JSON.parse(stdout) as { code: string; message: string; cause: string }[];
  expect(outcomes).toHaveLength(5);
  for (const outcome of outcomes) {
    expect(outcome).toMatchObject({ cause: 'EMFILE', message: expect.stringContaining('EMFILE') });
    expect(outcome.message).toMatch(/too many open files/);
  }
});

/** A guest of 64 pages, for the programs below as well. */
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 4096 }];

/** Migrates a guest without a free descriptor, and again when there are some. */
const SOURCE = `
import { closeSync, openSync } from 'node:fs';
import { migrate, receive } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { connectTo, listenOn, tcp } from '@godwit/transport';
const links = await listenOn(tcp({ port: 0 }));
const blocks = ${JSON.stringify(BLOCKS)};
const incoming = receive(links, { prepare: () => new ToyVm(blocks, { running: false }) });
const connector = connectTo(tcp({ port: links.listener.port }));
const vm = new ToyVm(blocks);
const taken = [];
try { for (;;) taken.push(openSync('/dev/null')); } catch {}
const first = migrate(vm, connector, { connectTimeoutMs: 100 });
const failed = await first.result.catch(({ code, message, retry, cause }) => ({ code, message, retry, cause: cause?.code }));
const after = { state: first.state, running: vm.running };
vm.write(0, 4096, new Uint8Array([42]));
for (const fd of taken) closeSync(fd);
await migrate(vm, connector).result;
const arrived = (await incoming.result).vm;
const report = { failed, after, moved: { running: arrived.running, byte: arrived.memory.blocks[0].view(4096, 1)[0] } };
process.stdout.write(JSON.stringify(report), () => process.exit());
`;

test('a source without a free descriptor fails with EMFILE, its guest runs on, and moves once there are descriptors', async () => {
  const { stdout } = await promisify(execFile)(...shellCommand(SOURCE));
  expect(JSON.parse(stdout)).toEqual({
    failed: {
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(/cannot connect to tcp:.*EMFILE.*this process has too many open files; raise its/),
      retry: true,
      cause: 'EMFILE',
    },
    after: { state: 'failed', running: true },
    moved: { running: true, byte: 42 },
  });
});

/** Awaits a guest without a free descriptor: tells its port, and frees descriptors when a line comes. */
const DESTINATION = `
import { closeSync, openSync } from 'node:fs';
import { receive } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { listenOn, tcp } from '@godwit/transport';
const links = await listenOn(tcp({ port: 0 }));
const incoming = receive(links, { prepare: () => new ToyVm(${JSON.stringify(BLOCKS)}, { running: false }) });
const taken = [];
process.stdin.once('data', () => taken.forEach(closeSync));
try { for (;;) taken.push(openSync('/dev/null')); } catch {}
console.log(links.listener.port);
const { vm } = await incoming.result;
console.log(vm.memory.blocks[0].view(4096, 1)[0]);
process.exit();
`;

test('a guest runs on while the listener has no free descriptor, and moves once it has some', async () => {
  const [command, argv, options] = shellCommand(DESTINATION);
  const destination = spawn(command, argv, { ...options, stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const lines = createInterface({ input: destination.stdout })[Symbol.asyncIterator]();
    const next = async () => Number((await lines.next()).value);
    const connector = connectTo(tcp({ port: await next() }));
    const vm = new ToyVm(BLOCKS);
    // The kernel accepts the connections and the listener's process closes them at once: the source only sees that they end.
    const failure = await migrate(vm, connector, { pageChannels: 1, connectTimeoutMs: 100 }).result.catch(
      (error: GodwitError) => error,
    );
    expect(failure).toMatchObject({ code: expect.stringMatching(/^GODWIT_(CONNECT_FAILED|LINK_LOST)$/), retry: true });
    expect(vm.running).toBe(true);
    const migration = migrate(vm, connector, { pageChannels: 1, connectTimeoutMs: 30_000 });
    const failures: MigrationEvent[] = [];
    migration.subscribe((event) => {
      if (event.type !== 'connect-failed') return;
      if (failures.length === 0) {
        // The guest is not held back by a migration that cannot begin.
        vm.write(0, 4096, new Uint8Array([42]));
        destination.stdin.write('now\n');
      }
      failures.push(event);
    });
    await migration.result;
    expect(failures[0]).toMatchObject({ attempt: 1 });
    expect(await next()).toBe(42);
  } finally {
    destination.kill();
  }
});
