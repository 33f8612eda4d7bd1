import { readFileSync } from 'node:fs';
import {
  ALWAYS,
  DESTINATION_PHASES,
  FRAME_TYPES,
  type FrameName,
  isLegal,
  PAGE_CHANNEL_FRAMES,
  type PhaseName,
  SOURCE_PHASES,
} from '@godwit/core';
import { URGENT_FRAMES } from '@godwit/core/pages';
import { describe, expect, test } from '@jest/globals';

const DOCUMENT = readFileSync(new URL('../../../docs/wire-format.md', import.meta.url), 'utf8');
const NAMES = Object.keys(FRAME_TYPES) as FrameName[];
const ROLES = [
  { role: 'source', phases: SOURCE_PHASES },
  { role: 'destination', phases: DESTINATION_PHASES },
] as const;
type AnyPhase = PhaseName<'source'> & PhaseName<'destination'>;

const words = (text: string): string[] => [...text.matchAll(/`([^`]+)`/g)].map(([, word]) => word as string);

/** The lines of the first table below `heading`, without its head. */
function rows(heading: string): string[] {
  const [, below = ''] = DOCUMENT.split(`\n${heading}\n`);
  const [table = ''] = /(\|.*\n)+/.exec(below) ?? [];
  return table.trim().split('\n').slice(2);
}

/** Who sends a frame of each type, as section 3 of the document has it: S, D or both. */
const SENDERS = new Map(rows('## 3. Frame types').map((row) => [words(row)[0], row.split('|')[3]?.trim()]));

/** What section 4 of the document says may be read: `phase type` for each pair. */
function legalInDocument(role: string): Set<string> {
  return new Set(
    rows(`What the ${role} may read:`).flatMap((row) => {
      const cells = row.split('|');
      const [phase] = words(cells[1] ?? '');
      return [...words(cells[3] ?? ''), 'ping', 'pong', 'error'].map((type) => `${phase} ${type}`);
    }),
  );
}

describe.each(ROLES)('what the $role may read', ({ role, phases }) => {
  const legal = new Set(
    phases.flatMap((phase) =>
      NAMES.filter((type) => isLegal(role, phase as AnyPhase, type)).map((type) => `${phase} ${type}`),
    ),
  );

  test('is what the document says, for every phase and every frame', () => {
    const written = legalInDocument(role);
    expect(written.size).toBeGreaterThan(phases.length * 3);
    expect([...legal].sort()).toEqual([...written].sort());
  });

  test('comes from the peer alone', () => {
    const sender = role === 'source' ? 'D' : 'S';
    for (const pair of legal) expect(['both', sender]).toContain(SENDERS.get(pair.split(' ')[1] as string));
  });

  test('is nothing but the keepalive and errors in a phase that there is not, and never a frame that there is not', () => {
    for (const phase of ['', 'hello', 'Greeting']) {
      expect(NAMES.filter((type) => isLegal(role, phase as AnyPhase, type))).toEqual(['error', 'ping', 'pong']);
    }
    for (const type of ['length', 'constructor', 'HELLO', ''])
      for (const phase of phases) expect(isLegal(role, phase as AnyPhase, type as FrameName)).toBe(false);
  });
});

test('every frame is legal somewhere but "attach", which opens a page channel, and the request on the urgent one', () => {
  const nowhere = NAMES.filter(
    (type) => !ROLES.some(({ role, phases }) => phases.some((phase) => isLegal(role, phase as AnyPhase, type))),
  );
  expect(nowhere).toEqual(['attach', 'requestPages']);
  expect(URGENT_FRAMES).toEqual(['requestPages', 'pages']);
});

test('a phase of one role is judged by that role: the same name means different things', () => {
  expect([isLegal('source', 'loading', 'ready'), isLegal('destination', 'loading', 'ready')]).toEqual([true, false]);
  expect([isLegal('source', 'greeting', 'hello'), isLegal('destination', 'greeting', 'hello')]).toEqual([false, true]);
});

describe('rules that the switchover rests on', () => {
  const readers = (type: FrameName) =>
    ROLES.flatMap(({ role, phases }) =>
      phases.filter((phase) => isLegal(role, phase as AnyPhase, type)).map((phase) => `${role} ${phase}`),
    );

  test.each<readonly [FrameName, readonly string[]]>([
    ['go', ['destination ready']],
    ['running', ['source handing-over']],
    ['switchover', ['destination receiving']],
    ['hello', ['destination greeting']],
    ['released', ['destination taking-over', 'destination post-copy']],
    ['missing', ['source greeting', 'destination receiving']],
    ['whole', ['source post-copy']],
    ['backAck', ['source going-back']],
    ['back', ['destination receiving', 'destination loading', 'destination ready']],
  ])('"%s" may be read only as %j', (type, where) => expect(readers(type)).toEqual(where));

  test.each(PAGE_CHANNEL_FRAMES)(
    '"%s" reaches guest memory only while the destination receives, or its guest runs without it',
    (type) => expect(readers(type)).toEqual(['destination receiving', 'destination post-copy']),
  );

  test('what is always legal changes nothing: it is neither a page nor a step of the switchover', () => {
    expect([...ALWAYS].sort()).toEqual(['error', 'ping', 'pong']);
  });
});
