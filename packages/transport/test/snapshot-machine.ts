import { existsSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type LinkConnector,
  type MigrateOptions,
  type Migration,
  type MigrationSummary,
  migrate,
  type Received,
  receive,
} from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { connectTo, type FileOptions, file, listenOn } from '@godwit/transport';

export const PAGE = 4096;
export const BLOCKS = [
  { id: 'ram-low', guestPhysicalAddress: 0, byteLength: 300 * PAGE },
  { id: 'ram-high', guestPhysicalAddress: 2 ** 32, byteLength: 70 * PAGE },
];

/** A folder of its own for each test file; `close` removes it. */
export async function snapshotFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'godwit-snapshot-'));
  let count = 0;
  return {
    folder,
    newPath: () => join(folder, `guest-${++count}.snap`),
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

/** A VM with two devices, each with state of its own; empty and paused when it is to receive. */
export function machine(options: { readonly empty?: boolean; readonly blocks?: typeof BLOCKS } = {}): ToyVm {
  const state = (name: string): Uint8Array =>
    options.empty === true ? new Uint8Array() : Buffer.from(`the state of ${name}`.repeat(300));
  return new ToyVm(options.blocks ?? BLOCKS, {
    running: options.empty !== true,
    devices: [new FaultyDevice('vcpu', state('the vCPU')), new FaultyDevice('serial', state('the serial port'))],
  });
}

/** A page that is like no other. */
export function pageOf(seed: number): Uint8Array {
  const words = new Uint32Array(PAGE / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca77);
  return new Uint8Array(words.buffer);
}

/** Every third page, in runs and alone. */
export function fill(vm: ToyVm): ToyVm {
  for (const [block, { byteLength }] of BLOCKS.entries()) {
    for (let page = 0; page < byteLength / PAGE; page++) {
      if (page % 7 < 3) vm.write(block, page * PAGE, pageOf(block * 1000 + page));
    }
  }
  return vm;
}

export function saving(vm: ToyVm, path: string, options: MigrateOptions = {}): Migration {
  return migrate(vm, connectTo(file({ path })), { progressIntervalMs: 0, ...options });
}

export function save(vm: ToyVm, path: string, options: MigrateOptions = {}): Promise<MigrationSummary> {
  return saving(vm, path, options).result;
}

export async function restore(
  vm: ToyVm,
  path: string,
  {
    onDescription,
    ...options
  }: Omit<FileOptions, 'path'> & { readonly onDescription?: (description: unknown) => void } = {},
): Promise<Received> {
  const links = await listenOn(file({ path, ...options }));
  try {
    const prepare = (description: unknown) => {
      onDescription?.(description);
      return vm;
    };
    return await receive(links, { prepare, progressIntervalMs: 0 }).result;
  } finally {
    await links.close();
  }
}

/** The same connector, with a say before each frame of the control stream is written. */
export function atFrame(connector: LinkConnector, type: string, act: () => void | Promise<void>): LinkConnector {
  return {
    async connect(request, signal) {
      const link = await connector.connect(request, signal);
      const { control } = link;
      const write = control.write.bind(control);
      return Object.assign(link, {
        control: Object.assign(control, {
          async write(...args: Parameters<typeof write>) {
            if (args[0].type === type) await act();
            return write(...args);
          },
        }),
      });
    },
  };
}

/** Names in a folder that a save has left under way. */
export function partials(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.partial')) : [];
}

export function statesOf(vm: ToyVm): string[] {
  return vm.devices.map((device) => Buffer.from((device as FaultyDevice).state).toString());
}
