import { readFileSync } from 'node:fs';
import {
  ALWAYS,
  ANY_STREAM_FRAMES,
  DESTINATION_PHASES,
  FRAME_TYPES,
  FRAMES_WITH_PAYLOAD,
  type Frame,
  type FrameName,
  HELLO_STAGES,
  isLegal,
  MOVED_RUN_STATES,
  PAGE_CHANNEL_FRAMES,
  PROTOCOL,
  RESUMED_STATES,
  SOURCE_PHASES,
} from '@godwit/core';
import { MOST_REQUESTED, URGENT_FRAMES } from '@godwit/core/pages';
import { describe, expect, test } from '@jest/globals';
import { Unpackr } from 'msgpackr';

const read = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');
const PAGE = read('../../../docs/wire-format.md');
const VECTORS = JSON.parse(read('../test/vectors/frames.json')) as readonly { hex: string; frame: Frame }[];

/** The rows of the first table below a line of the page, each cell without the blanks around it. */
function tableBelow(line: string): string[][] {
  const lines = PAGE.split('\n');
  const start = lines.indexOf(line);
  if (start === -1) throw new Error(`docs/wire-format.md has no line "${line}"`);
  const head = lines.findIndex((text, i) => i > start && text.startsWith('|'));
  const end = lines.findIndex((text, i) => i > head && !text.startsWith('|'));
  return lines.slice(head + 2, end).map((row) =>
    row
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim()),
  );
}

/** The words between backticks. */
function quoted(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, name]) => name as string);
}

/** A block or a device as it is on the wire: its flags are one integer, absent where it is 0. */
function wireOf({ shared, readOnly, ...fields }: { readonly shared?: true; readonly readOnly?: true }): unknown[] {
  const flags = (shared ? 1 : 0) + (readOnly ? 2 : 0);
  return [...Object.values(fields), ...(flags === 0 ? [] : [flags])];
}

interface TypeRow {
  readonly number: number;
  readonly name: FrameName;
  readonly from: string;
  readonly on: string;
  readonly payload: boolean;
  readonly fields: readonly string[];
}

const TYPES: readonly TypeRow[] = tableBelow('## 3. Frame types').map(([number, name, from, on, payload, fields]) => ({
  number: Number(number),
  name: quoted(name as string)[0] as FrameName,
  from: from as string,
  on: on as string,
  payload: payload === 'yes',
  fields: quoted(fields as string),
}));

describe('the frame types of docs/wire-format.md', () => {
  test('are those of the engine, with their numbers and payloads', () => {
    expect(Object.fromEntries(TYPES.map(({ name, number }) => [name, number]))).toEqual(FRAME_TYPES);
    expect(TYPES).toHaveLength(Object.keys(FRAME_TYPES).length);
    expect(new Set(TYPES.filter(({ payload }) => payload).map(({ name }) => name))).toEqual(FRAMES_WITH_PAYLOAD);
  });

  test('have the fields that stand in the vectors, in their order', () => {
    const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' });
    const complete = new Set<string>();
    for (const { hex, frame } of VECTORS) {
      const bytes = Buffer.from(hex, 'hex');
      const [type, ...values] = unpackr.unpack(
        Uint8Array.from(bytes.subarray(5, 5 + bytes.readUInt32BE(1))),
      ) as unknown[];
      const { type: name, ...fields } = frame;
      const row = TYPES.find(({ number }) => number === type) as TypeRow;
      // Only the last fields of a frame may be absent: those that older peers do not know.
      const present = row.fields.slice(0, Object.keys(fields).length);
      expect([row.name, [...present].sort()]).toEqual([name, Object.keys(fields).sort()]);
      complete.add(present.length === row.fields.length ? name : '');
      const packed = present.map((field) => {
        const value = (fields as Record<string, unknown>)[field];
        // Blocks and devices are arrays on the wire.
        const objects = (field === 'blocks' || field === 'devices') && Array.isArray(value);
        return objects ? value.map((item: object) => wireOf(item)) : value;
      });
      expect([frame.type, values]).toEqual([frame.type, packed]);
    }
    for (const { name } of TYPES) expect(complete).toContain(name);
  });

  test('come from whom the table says, on the streams that it says', () => {
    for (const { name, from, on } of TYPES) {
      const read = { S: DESTINATION_PHASES.some((phase) => isLegal('destination', phase, name)) };
      const told = { D: SOURCE_PHASES.some((phase) => isLegal('source', phase, name)) };
      const page = PAGE_CHANNEL_FRAMES.includes(name);
      // The first frame of a page channel is in no phase.
      if (name === 'attach') expect([from, on, read.S, told.D]).toEqual(['S', 'page', false, false]);
      // Nor are those of the urgent channel; one of them comes on page channels too.
      else if (URGENT_FRAMES.includes(name) && !page) expect([name, from, on]).toEqual([name, 'D', 'urgent']);
      else {
        expect([name, from]).toEqual([name, read.S && told.D ? 'both' : read.S ? 'S' : 'D']);
        const both = ANY_STREAM_FRAMES.includes(name) ? 'page or control' : name === 'error' ? 'any' : 'control';
        const streams = page ? 'page (control if N = 0)' : both;
        expect([name, on]).toEqual([name, streams]);
      }
    }
  });

  test('have each of their fields explained, and no other is', () => {
    const explained = tableBelow('### Fields').flatMap(([names]) => quoted(names as string));
    const inner = ['identity', 'flags', 'stateBytes'];
    expect(new Set(explained)).toEqual(new Set([...TYPES.flatMap(({ fields }) => fields), ...inner]));
    expect(explained).toHaveLength(new Set(explained).size);
  });

  test('name every stage and state', () => {
    const rows = tableBelow('### Fields');
    const namesOf = (field: string): string[] =>
      quoted((rows.find(([name]) => name === `\`${field}\``) as string[])[2] as string);
    expect(new Set(namesOf('stage'))).toEqual(new Set(HELLO_STAGES));
    expect(new Set(namesOf('state'))).toEqual(new Set(RESUMED_STATES));
    expect(new Set(namesOf('runState'))).toEqual(new Set(MOVED_RUN_STATES));
    const stages = tableBelow(
      'first: then everything is sent again, from round 1. It answers other stages with `error`.',
    );
    expect(stages.map(([name]) => quoted(name as string)[0])).toEqual([...HELLO_STAGES]);
  });
});

test('docs/wire-format.md has the limit of pages in one request', () => {
  const [, most] = tableBelow('### Limits').find(([what]) => what === 'pages in one `requestPages`') as string[];
  expect(Number(most)).toBe(MOST_REQUESTED);
});

describe('the phases of docs/wire-format.md', () => {
  test.each([
    { role: 'destination' as const, phases: DESTINATION_PHASES },
    { role: 'source' as const, phases: SOURCE_PHASES },
  ])('are those of the $role, each with the frames that are legal in it', ({ role, phases }) => {
    const rows = tableBelow(`What the ${role} may read:`);
    const written = rows.map(([phase, , legal]) => [quoted(phase as string)[0], quoted(legal as string)]);
    expect(Object.fromEntries(written)).toEqual(PROTOCOL[role]);
    expect(written.map(([phase]) => phase)).toEqual([...phases]);
  });

  test('name what is legal in all of them, and what comes on page channels', () => {
    const [, section = ''] = PAGE.split('### Phases\n');
    const always = /`ping`[^.]*are legal in every phase/.exec(section.replaceAll('\n', ' '))?.[0] ?? '';
    expect(quoted(always)).toEqual([...ALWAYS]);
    const pages = /`pages`[^.]*come on page channels/.exec(section.replaceAll('\n', ' '))?.[0] ?? '';
    expect(quoted(pages)).toEqual([...PAGE_CHANNEL_FRAMES]);
    const urgent = /The urgent channel carries[^,]*,/.exec(section.replaceAll('\n', ' '))?.[0] ?? '';
    expect(quoted(urgent)).toEqual([...URGENT_FRAMES]);
  });
});
