import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KernelModule } from '../harness/kernel-modules.js';
import { BUSYBOX_VARIABLE, KERNEL_VARIABLE, PATIENT, writeShellInitramfs } from './linux-files.js';
import { LinuxHost } from './linux-host.js';
import { ask, PATIENCE } from './vmm-control.js';

/** The kernel that the test machine itself runs. */
export const KERNEL = process.env[KERNEL_VARIABLE] ?? '';

/** What the guests of a suite have in common. */
export interface ShellGuestsOptions {
  /** Inserted before the shell is there. Default: none. */
  readonly modules?: readonly KernelModule[];
  /** The device of the shell's console. Default `ttyS0`. */
  readonly console?: string;
}

/** Processes of node-vmm with the machine's own kernel and a shell, each with a name, and the folder for their files. */
export class ShellGuests {
  readonly folder: string;
  readonly #console: string;
  readonly #hosts: LinuxHost[] = [];

  constructor({ modules = [], console = 'ttyS0' }: ShellGuestsOptions = {}) {
    this.folder = mkdtempSync(join(tmpdir(), 'shell-guests-'));
    this.#console = console;
    writeShellInitramfs(this.#initramfs, process.env[BUSYBOX_VARIABLE] ?? '', { console, modules });
  }

  get #initramfs(): string {
    return join(this.folder, 'initramfs');
  }

  /** Boots a guest with 192 MiB, and waits for its shell: what is typed before that may be lost. */
  async boot(name: string, vcpus: number, ...options: string[]): Promise<LinuxHost> {
    const guest = this.#start(
      name,
      ...['run', '--kernel', KERNEL, '--initrd', this.#initramfs, '--vcpus', String(vcpus), '--memory', '192M'],
      ...['--console', this.#console, '--append', `console=ttyS0 quiet panic=-1 ${PATIENT}`, ...options],
    );
    await guest.prints(/ready after [\d.]+ s/);
    await guest.prints(/guest# /);
    return guest;
  }

  /** A process that awaits a guest. */
  async awaiting(name: string, ...options: string[]): Promise<LinuxHost> {
    const host = this.#start(name, 'receive', this.#link(name), '--once', ...options);
    await host.says(/a guest may come/);
    return host;
  }

  /** Has the process `from` move its guest to the process `to`, which awaits one. */
  move(from: string, to: string): Promise<unknown> {
    return ask(this.#socket(from), 'migrate', { to: this.#link(to), ...PATIENCE });
  }

  /** Ends all processes. */
  async kill(): Promise<void> {
    const running = this.#hosts.splice(0);
    for (const host of running) host.kill();
    await Promise.all(running.map(({ ended }) => ended));
  }

  /** Removes the folder. */
  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  #start(name: string, command: string, ...args: string[]): LinuxHost {
    const host = new LinuxHost([command, ...args, '--control', this.#socket(name)]);
    this.#hosts.push(host);
    return host;
  }

  #socket(name: string): string {
    return join(this.folder, `${name}.sock`);
  }

  #link(name: string): string {
    return `unix:${join(this.folder, `${name}.link`)}`;
  }
}

/** Types a command, and returns the part of what it prints that the pattern's first group matches. */
export async function answer(guest: LinuxHost, command: string, pattern: RegExp): Promise<string> {
  guest.type(command);
  return (await guest.prints(pattern))[1] as string;
}
