import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as guest from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';

const fromPackage = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const hasAssembler = [process.env['AS'] ?? 'as', process.env['LD'] ?? 'ld', process.env['NM'] ?? 'nm'].every(
  (tool) => spawnSync(tool, ['--version']).status === 0,
);

describe('guest image', () => {
  test('is the one whose hash is recorded, and starts with the entry', () => {
    const image = guest.guestImage();
    expect(image).toHaveLength(guest.GUEST_IMAGE_BYTES);
    expect(createHash('sha256').update(image).digest('hex')).toBe(guest.GUEST_IMAGE_SHA256);
    expect(guest.GUEST_SYMBOLS['_start']).toBe(guest.IMAGE_ADDRESS);
  });

  const assembles = 'is what the source assembles to';
  (hasAssembler ? test : test.skip)(hasAssembler ? assembles : `${assembles} (skipped: no binutils)`, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [fromPackage('guest/assemble.mjs'), '--check'], {
      encoding: 'utf8',
    });
    expect({ status, output: stdout + stderr }).toMatchObject({ status: 0 });
  });

  test('the assembly has the same numbers as the TypeScript', () => {
    const constants = new Map<string, number>();
    for (const [, name = '', value = ''] of readFileSync(fromPackage('guest/constants.S'), 'utf8').matchAll(
      /^\s*\.set (\w+),\s+(0x[0-9a-f]+|\d+)\s*(?:#.*)?$/gm,
    )) {
      constants.set(name, Number(value));
    }
    const expected: Record<string, number> = {
      SHARED: guest.SHARED_ADDRESS,
      MAILBOX: guest.MAILBOX_ADDRESS,
      CONTROL: guest.CONTROL_ADDRESS,
      STACKS: guest.STACKS_ADDRESS,
      LINES: guest.LINES_ADDRESS,
      SHARED_STOP: guest.SHARED_STOP_OFFSET,
      SHARED_LOCK: guest.SHARED_LOCK_OFFSET,
      PORT_SERIAL: guest.PORT_SERIAL,
      PORT_CLOCK_LOW: guest.PORT_CLOCK_LOW,
      PORT_CLOCK_HIGH: guest.PORT_CLOCK_HIGH,
      PORT_PACER: guest.PORT_PACER,
      PORT_DEFECT: guest.PORT_DEFECT,
      PORT_LINE: guest.PORT_LINE,
      P_RATE: guest.BOOT_PARAMS_RATE_OFFSET,
      P_HEARTBEAT: guest.BOOT_PARAMS_HEARTBEAT_OFFSET,
      PARAMS_VERSION: guest.BOOT_PARAMS_VERSION,
      C_WRITES: guest.CONTROL.WRITES,
      C_IN_FLIGHT: guest.CONTROL.IN_FLIGHT,
      C_CLOCK: guest.CONTROL.CLOCK,
      C_STALL: guest.CONTROL.STALL,
      C_STALL_EVER: guest.CONTROL.STALL_EVER,
      C_BEATS: guest.CONTROL.HEARTBEATS,
      C_MAIL_SEEN: guest.CONTROL.MAIL_SEEN,
      C_OWNED: guest.CONTROL.OWNED,
      C_CELLS: guest.CONTROL.CELLS,
      FIRST_CELLS: Number(guest.FIRST_CELLS),
      C_SEEN: guest.CONTROL.SEEN,
      C_DEFECT: guest.CONTROL.DEFECT,
      STAMPS: guest.STAMPS,
      STAMP_SPACING: guest.STAMP_SPACING,
      HOST_WRITER: guest.HOST_WRITER,
      MAILBOX_PAGES: guest.MAILBOX_PAGES,
      K_LOST: guest.DEFECT_CODES.lost,
      K_STALE: guest.DEFECT_CODES.stale,
      K_TORN: guest.DEFECT_CODES.torn,
      K_MISPLACED: guest.DEFECT_CODES.misplaced,
      K_FOREIGN: guest.DEFECT_CODES['foreign-writer'],
      K_TABLE: guest.DEFECT_CODES.table,
      K_PROGRESS: guest.DEFECT_CODES.progress,
      K_MAILBOX: guest.DEFECT_CODES.mailbox,
      K_CLOCK: guest.DEFECT_CODES.clock,
      K_CHANGED: guest.DEFECT_CODES.changed,
      K_PARAMETERS: guest.DEFECT_CODES.parameters,
    };
    const found = Object.fromEntries(Object.keys(expected).map((name) => [name, constants.get(name)]));
    expect(found).toEqual(expected);
  });
});
