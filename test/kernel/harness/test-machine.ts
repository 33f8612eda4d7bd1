import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { UnpackedQemu } from '@godwit/bench/qemu';
import type { DebianTree } from './debian-packages.js';
import { COMMAND_FILE, STATUS_FILE } from './init-script.js';

/** A kernel to boot, and the hardware of its machine. */
export interface BootImage {
  readonly kernel: string;
  readonly initramfs: string;
  /** Another QEMU than the tree's. */
  readonly qemu?: Pick<UnpackedQemu, 'command' | 'environment'>;
  /** QEMU's name of the processor, and how many. Default: two with all that QEMU emulates. */
  readonly processor?: { readonly model: string; readonly count: number };
  /** In GiB. Default: 2. */
  readonly memoryGiB?: number;
  /** QEMU's way to emulate: the argument of `-accel`. Default: one thread for all processors. */
  readonly accelerator?: string;
  /** QEMU's options for the devices of this machine. */
  readonly devices: readonly string[];
  /** Added to the kernel's command line. */
  readonly parameters: string;
  /** Environment variables for the suites. */
  readonly variables?: Readonly<Record<string, string>>;
}

export interface BootResult {
  /** The command's exit status; undefined if the machine ended before the command did. */
  readonly status: number | undefined;
  /** The counts of the Jest runs inside, one JSON line a run; undefined when there were none. */
  readonly tally: string | undefined;
  /** What the command has written into the share (`SHARE_IN_GUEST`), by file name. */
  readonly files: ReadonlyMap<string, string>;
  readonly seconds: number;
  readonly timedOut: boolean;
  /** The end of what the console printed. */
  readonly consoleTail: string;
}

/** The file in the share with the counts of the Jest runs inside, which tools/jest/skip-reporter.js writes. */
export const TALLY_FILE = 'tally.jsonl';
const TAIL_LENGTH = 8000;

/**
 * Boots the image, runs a shell script in it as root with the host's root file system, and shows its console.
 *
 * QEMU emulates the processor (TCG). So the machine has an IOMMU and nested virtualization, which the suites need, on every
 * host, also if the host has no KVM, or a KVM that cannot run a stock kernel. QEMU has ended when this resolves.
 */
export async function bootAndRun(
  tree: DebianTree,
  image: BootImage,
  script: string,
  timeoutMs: number,
): Promise<BootResult> {
  const share = mkdtempSync(join(tmpdir(), 'godwit-kernel-'));
  const started = Date.now();
  try {
    writeFileSync(join(share, COMMAND_FILE), script);
    const { timedOut, consoleTail } = await runQemu(image.qemu ?? qemuOf(tree), qemuArguments(image, share), timeoutMs);
    const status = textOf(join(share, STATUS_FILE));
    return {
      status: status === undefined ? undefined : Number(status),
      tally: textOf(join(share, TALLY_FILE)),
      files: new Map(readdirSync(share).map((name) => [name, readFileSync(join(share, name), 'utf8')])),
      seconds: (Date.now() - started) / 1000,
      timedOut,
      consoleTail,
    };
  } finally {
    rmSync(share, { recursive: true, force: true });
  }
}

/**
 * One thread runs both processors in turn. With a thread for each, QEMU 7.2 has had the kernel panic in two of some ten runs:
 * int3 in `__schedule`, right after a nested VM had ended. A possible cause: the kernel patches its scheduler when the last
 * VM ends, and another thread that translates this code at that moment would keep the breakpoint that the patching uses.
 */
function qemuArguments(image: BootImage, share: string): string[] {
  const { model, count } = image.processor ?? { model: 'max,+svm', count: 2 };
  return [
    ...[
      '-machine',
      'q35',
      '-accel',
      image.accelerator ?? 'tcg,thread=single',
      '-cpu',
      model,
      '-smp',
      String(count),
      '-m',
      `${image.memoryGiB ?? 2}G`,
    ],
    ...['-display', 'none', '-vga', 'none', '-nic', 'none', '-monitor', 'none', '-serial', 'stdio', '-no-reboot'],
    ...['-virtfs', 'local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap'],
    ...['-virtfs', `local,path=${share},mount_tag=share,security_model=none,multidevs=remap`],
    ...image.devices,
    ...['-kernel', image.kernel, '-initrd', image.initramfs],
    ...['-append', `console=ttyS0 quiet panic=-1 oops=panic no_timer_check ${image.parameters}`],
  ];
}

/** The tree's QEMU, with the firmware that is there. */
function qemuOf(tree: DebianTree): NonNullable<BootImage['qemu']> {
  const firmware = ['usr/share/qemu', 'usr/share/seabios'].map((path) => join(tree.folder, path)).filter(existsSync);
  return {
    command: [tree.program('qemu-system-x86_64'), ...firmware.flatMap((path) => ['-L', path])],
    environment: tree.environment,
  };
}

function runQemu(
  { command, environment }: NonNullable<BootImage['qemu']>,
  args: readonly string[],
  timeoutMs: number,
): Promise<{ timedOut: boolean; consoleTail: string }> {
  return new Promise((resolve, reject) => {
    const [program, ...first] = command;
    const qemu = spawn(program, [...first, ...args], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    // QEMU must not outlive this process, also if a signal ends this process.
    const kill = (): void => {
      qemu.kill('SIGKILL');
    };
    let endedBy: NodeJS.Signals | undefined;
    const endWith = (signal: NodeJS.Signals): void => {
      endedBy = signal;
      kill();
    };
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    process.once('exit', kill);
    for (const signal of signals) process.once(signal, endWith);

    let consoleTail = '';
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      kill();
    }, timeoutMs);
    qemu.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const text = chunk.replaceAll('\r', '');
      consoleTail = (consoleTail + text).slice(-TAIL_LENGTH);
      process.stdout.write(text);
    });
    const settle = (): void => {
      clearTimeout(timer);
      process.off('exit', kill);
      for (const signal of signals) process.off(signal, endWith);
    };
    qemu.on('error', (cause) => {
      settle();
      reject(new Error(`cannot start QEMU: ${cause.message}`, { cause }));
    });
    qemu.on('close', () => {
      settle();
      resolve({ timedOut, consoleTail });
      // The signal ends this process only after the callers of this function have cleaned up.
      if (endedBy !== undefined) setImmediate(() => process.kill(process.pid, endedBy));
    });
  });
}

function textOf(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}
