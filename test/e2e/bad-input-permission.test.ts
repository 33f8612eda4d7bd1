import { execFile, spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(120_000);

/** From test/dist/e2e. */
const EXAMPLE = new URL('../../../examples/node-vmm/dist/', import.meta.url);
const KVM = '/dev/kvm';
const NOBODY = 65534;

/**
 * The command that starts a program as a user without access to /dev/kvm. This user may read all files that root may
 * read, so that this checkout can be anywhere. That is not enough for /dev/kvm, which has to be opened for writing too.
 */
const AS_NOBODY = [
  'setpriv',
  `--reuid=${NOBODY}`,
  `--regid=${NOBODY}`,
  '--clear-groups',
  '--inh-caps=-all,+dac_read_search',
  '--ambient-caps=-all,+dac_read_search',
  '--bounding-set=-all,+dac_read_search',
];

function accessible(): boolean {
  try {
    accessSync(KVM, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** The command that starts a program as a user without access, or, as a string, why there is none. */
function prefix(): readonly string[] | string {
  const node = statSync(KVM, { throwIfNoEntry: false });
  if (node === undefined) return `${KVM} does not exist`;
  if (!accessible()) return [];
  if ((node.mode & 0o006) === 0o006) return `everybody may use ${KVM}`;
  if (process.getuid?.() !== 0) return `only root can become a user without access to ${KVM}`;
  const [command = '', ...options] = AS_NOBODY;
  const { status } = spawnSync(command, [...options, 'true']);
  return status === 0 ? AS_NOBODY : 'no setpriv of util-linux that may drop privileges';
}

const DENIED =
  /open \/dev\/kvm failed: EACCES \(permission denied\); add your user to group kvm \(`sudo usermod -aG kvm \$USER`, then log in again\)/;

const commands = prefix();
const reason = typeof commands === 'string' ? ` (skipped: ${commands})` : '';
const suite = reason === '' ? describe : describe.skip;

/** Runs Node in another process; resolves with its output and exit status, whatever the status is. */
function node(...args: readonly string[]): Promise<{ readonly stdout: string; readonly status: number }> {
  const [command = '', ...rest] = [...(commands as readonly string[]), process.execPath, ...args];
  return new Promise((resolve) => {
    const child = execFile(command, rest, { maxBuffer: 2 ** 26 }, (_, stdout) => {
      resolve({ stdout, status: child.exitCode ?? -1 });
    });
  });
}

suite(`a user without access to ${KVM}${reason}`, () => {
  test('is told what to do by Machine.create', async () => {
    const { stdout } = await node(
      '--input-type=module',
      '--eval',
      `const { Machine, hasKvm } = await import(${JSON.stringify(new URL('index.js', EXAMPLE).href)});
       const { code, message, syscall, errnoName } = await Machine.create({ memoryBytes: 2 ** 26, vcpus: 1 }).catch((error) => error);
       console.log(JSON.stringify({ code, message, syscall, errnoName, hasKvm: hasKvm() }));`,
    );
    expect(JSON.parse(stdout)).toEqual({
      code: 'GODWIT_PERMISSION',
      message: expect.stringMatching(DENIED),
      syscall: 'open',
      errnoName: 'EACCES',
      hasKvm: false,
    });
  });

  test('sees the demo with the guest that needs none, and why', async () => {
    const { stdout, status } = await node(
      fileURLToPath(new URL('demo/cli.js', EXAMPLE)),
      '--json',
      ...['--memory', '64M', '--working-set', '16M', '--settle', '0.5'],
    );
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.find(({ event }) => event === 'guest')).toMatchObject({
      spec: { kind: 'software' },
      note: expect.stringMatching(DENIED),
    });
    expect(lines.at(-1)).toMatchObject({ event: 'completed', verified: true, defects: 0 });
    expect(status).toBe(0);
  });
});
