import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { logsByFaults } from '../dist/machine/write-faults.js';

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

function host(module: string | undefined, pml?: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-modules-'));
  folders.push(folder);
  if (module === undefined) return folder;
  mkdirSync(join(folder, module, 'parameters'), { recursive: true });
  if (pml !== undefined) writeFileSync(join(folder, module, 'parameters', 'pml'), pml);
  return folder;
}

test.each([
  ['an Intel processor that logs writes by itself', 'kvm_intel', 'Y\n', false],
  ['an Intel processor whose log is off', 'kvm_intel', 'N\n', true],
  ['an AMD processor', 'kvm_amd', undefined, true],
  ['a host with PVM', 'kvm_pvm', undefined, false],
  ['a host without KVM', undefined, undefined, false],
])('%s: KVM takes a fault for the first write to a page', (_, module, pml, faults) => {
  expect(logsByFaults(host(module, pml))).toBe(faults);
});
