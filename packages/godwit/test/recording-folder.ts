import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Frame } from '@godwit/core';
import { afterAll, beforeAll } from '@jest/globals';
import { type Finding, type InspectionSummary, inspectRecording, type ReadableBytes } from 'godwit';
import { record, type Step } from './scripted-recording.js';

/** A folder for recordings, there while the tests of a file run. */
export class RecordingFolder {
  #path = '';
  #count = 0;

  constructor() {
    beforeAll(() => {
      this.#path = mkdtempSync(join(tmpdir(), 'godwit-inspect-'));
    });
    afterAll(() => rmSync(this.#path, { recursive: true, force: true }));
  }

  /** Records these frames; returns the path of the file. */
  async record(steps: readonly Step[]): Promise<string> {
    const path = join(this.#path, `${this.#count++}.godwit`);
    await record(path, steps);
    return path;
  }

  /** What is found in a recording of these frames. */
  async findingsOf(steps: readonly Step[], frames = false): Promise<Finding[]> {
    return findingsIn(createReadStream(await this.record(steps)), frames);
  }
}

export async function findingsIn(bytes: ReadableBytes, frames = false): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const finding of inspectRecording(bytes, { frames })) findings.push(finding);
  return findings;
}

export async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

export function only<E extends Finding['event']>(
  findings: readonly Finding[],
  event: E,
): Extract<Finding, { event: E }>[] {
  return findings.filter((finding): finding is Extract<Finding, { event: E }> => finding.event === event);
}

export function summaryOf(findings: readonly Finding[]): InspectionSummary {
  const last = findings.at(-1);
  if (last?.event !== 'summary') throw new Error(`no summary, but ${JSON.stringify(last)}`);
  return last;
}

/** The destination's answer to a source that comes back in round 3, when it has one piece of the device. */
export const RESUMED: Extract<Frame, { type: 'resumed' }> = {
  type: 'resumed',
  state: 'receiving',
  round: 3,
  deviceSequences: [1],
  deviceResets: [0],
  incarnation: '1'.repeat(32),
  resumeMs: 0,
  sinceReadyMs: 0,
};
