import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasKvm } from '@godwit/example-node-vmm';
import { testCertificate } from '@godwit/transport/testing';

/** From test/dist/terminals: what `npm run vmm --` starts. */
const CLI = fileURLToPath(new URL('../../../examples/node-vmm/dist/command/cli.js', import.meta.url));

/** A small guest of the kind that this machine can run; the tests work with both kinds. */
export const GUEST = [
  '--memory',
  '96M',
  '--working-set',
  '24M',
  '--heartbeat',
  '200',
  ...(hasKvm() ? [] : ['--no-kvm']),
];

/** A command's output and exit status. */
export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A user of the command, with a folder of its own for control sockets and other files. */
export class VmmUser {
  readonly folder = mkdtempSync(join(tmpdir(), 'godwit-terminals-'));

  /** The command line, for a terminal. `inside` is what comes before it, such as `ip netns exec NAME`. */
  line(args: readonly string[], inside: readonly string[] = []): readonly string[] {
    return [...inside, 'env', `XDG_RUNTIME_DIR=${this.folder}`, process.execPath, CLI, ...args];
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Runs a command to its end, without a terminal. */
  async vmm(...args: readonly string[]): Promise<Ran> {
    const environment = { ...process.env, XDG_RUNTIME_DIR: this.folder };
    const child = spawn(process.execPath, [CLI, ...args], { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    const texts = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        texts[name] += text;
      });
    }
    const [status] = (await once(child, 'close')) as [number | null];
    return { status, ...texts };
  }

  /** As `vmm`, with the last line of its JSON. */
  async json(...args: readonly string[]): Promise<Ran & { readonly last: Record<string, unknown> }> {
    const ran = await this.vmm(...args, '--json');
    const last = ran.stdout.trimEnd().split('\n').at(-1) ?? '';
    return { ...ran, last: JSON.parse(last === '' ? '{}' : last) as Record<string, unknown> };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The certificates of two sides, each signed by the same authority, as PEM by file name. */
export function certificates(): Readonly<Record<string, string>> {
  const authority = testCertificate('authority');
  const files: Record<string, string> = { 'ca.pem': authority.cert };
  for (const side of ['source', 'destination']) {
    const { cert, key } = testCertificate(side, { signer: authority, hosts: ['127.0.0.1'] });
    files[`${side}-cert.pem`] = cert;
    files[`${side}-key.pem`] = key;
  }
  return files;
}
