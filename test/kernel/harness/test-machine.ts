import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { UnpackedQemu } from '@godwit/bench/qemu';
import type { DebianTree } from './debian-packages.js';
import { COMMAND_FILE, STATUS_FILE } from './init-script.js';

/** A kernel to boot, and the hardware that it finds. */
export interface BootImage {
  readonly kernel: string;
  readonly initramfs: string;
  /** Another QEMU than the tree's. */
  readonly qemu?: Pick<UnpackedQemu, 'command' | 'environment'>;
  /** QEMU's name of the processor, and how many. Default: two with all that QEMU emulates. */
  readonly processor?: { readonly model: string; readonly count: number };
  /** QEMU's options for the devices of this machine. */
  readonly devices: readonly string[];
  /** Added to the kernel's command line. */
  readonly parameters: string;
}

export interface BootResult {
  /** The command's exit status; undefined when the machine ended without having run it to its end. */
  readonly status: number | undefined;
  /** The counts of the Jest runs inside, one JSON line a run; undefined when there were none. */
  readonly tally: string | undefined;
  readonly seconds: number;
  readonly timedOut: boolean;
  /** The end of what the console printed. */
  readonly consoleTail: string;
}

/** In the share: the counts of the Jest runs inside, which tools/jest/skip-reporter.js writes. */
export const TALLY_FILE = 'tally.jsonl';
const TAIL_LENGTH = 8000;

/**
 * Boots the image, runs a shell script in it as root with the host's root file system, and shows its console.
 *
 * QEMU emulates the processor (TCG): what the suites need of it, an IOMMU and nested virtualization, it then has
 * everywhere, also where the host has no KVM or one that cannot run a stock kernel. QEMU is gone when this resolves.
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
 * int3 in `__schedule`, right after a nested VM had ended. What fits: the kernel patches its scheduler when the last VM goes,
 * and a translation made at that moment by another thread would keep the breakpoint that it patches with.
 */
function qemuArguments(image: BootImage, share: string): string[] {
  const { model, count } = image.processor ?? { model: 'max,+svm', count: 2 };
  return [
    ...['-machine', 'q35', '-accel', 'tcg,thread=single', '-cpu', model, '-smp', String(count), '-m', '2G'],
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
    // In every case, and also when this process is told to end: QEMU does not outlive it.
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
      // After whoever waits for this has cleaned up.
      if (endedBy !== undefined) setImmediate(() => process.kill(process.pid, endedBy));
    });
  });
}

function textOf(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}
