import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Qmp } from './qmp.js';
import type { UnpackedQemu } from './unpacked-qemu.js';

/** The names that a QEMU reports. */
export interface QemuNames {
  readonly version: string;
  /** `query-qmp-schema`: all commands, events and types. */
  readonly schema: unknown;
  /** `query-migrate-capabilities` */
  readonly capabilities: unknown;
}

/** Asks a QEMU without a machine for the names of everything. */
export async function namesOf(qemu: UnpackedQemu): Promise<QemuNames> {
  const [program, ...args] = qemu.command;
  const child = spawn(program, [...args, '-machine', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio'], {
    env: { ...process.env, ...qemu.environment },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  const qmp = new Qmp(child.stdout, child.stdin);
  void ended.then(
    () => qmp.close(new Error('QEMU has ended')),
    (error: Error) => qmp.close(error),
  );
  try {
    await qmp.execute('qmp_capabilities');
    const schema = await qmp.execute('query-qmp-schema');
    return { version: qemu.version, schema, capabilities: await qmp.execute('query-migrate-capabilities') };
  } finally {
    child.kill('SIGKILL');
    await ended.catch(() => {});
  }
}
