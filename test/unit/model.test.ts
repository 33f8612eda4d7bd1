import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  ALWAYS,
  FRAME_TYPES,
  type FrameName,
  HELLO_STAGES,
  PAGE_CHANNEL_FRAMES,
  PROTOCOL,
  RESUMED_STATES,
} from '@godwit/core';
import { DESTINATION_OWNERSHIP, type OwnershipTable, SOURCE_OWNERSHIP } from '@godwit/core/pages';
import { describe, expect, test } from '@jest/globals';
import { CLAIMS, VARIANTS } from '../model/variants.js';
import { failedLine, passed, refused } from '../model/verdict.js';

const MODEL = readFileSync(join(import.meta.dirname, '..', '..', 'model', 'switchover.pml'), 'utf8');
/** The model without the variants that are wrong on purpose. */
const RIGHT = withoutVariants(MODEL);
const PAGE = readFileSync(join(import.meta.dirname, '..', '..', '..', 'docs', 'switchover.md'), 'utf8');

describe.each([
  { role: 'SOURCE', prefix: 's_', variable: 'sOwn', heading: '1. The source', table: SOURCE_OWNERSHIP },
  { role: 'DESTINATION', prefix: 'd_', variable: 'dOwn', heading: '2. The destination', table: DESTINATION_OWNERSHIP },
])('the $role of the model and of docs/switchover.md', ({ role, prefix, variable, heading, table }) => {
  const inCode = transitionsOf(table as OwnershipTable<string, string>);

  test('the model has the transitions of the code and no other', () => {
    const found = [...RIGHT.matchAll(new RegExp(`^(?!#).*\\b${role}\\((\\w+), (\\w+), (\\w+)\\)`, 'gm'))];
    const inModel = new Set(found.map(([, from, event, to]) => `${from} --${event}--> ${to}`));
    expect([...inModel].sort()).toEqual([...inCode].sort());
  });

  test('the model changes the state in no other way, but for a process that is started anew', () => {
    const assigned = RIGHT.split('\n').filter((line) => new RegExp(`^(?!#).*\\b${variable} = `).test(line));
    const expected = [`mtype ${variable} = ${prefix}${table.initial};`];
    if (role === 'DESTINATION') expected.push('dOwn = d_receiving;');
    expect(assigned.map((line) => line.trim())).toEqual(expected);
  });

  test('the model has the states of the code', () => {
    const line = MODEL.split('\n').find((text) => text.startsWith(`mtype = { ${prefix}`));
    const states = [...(line ?? '').matchAll(new RegExp(`\\b${prefix}(\\w+)`, 'g'))].map((match) => match[1]);
    expect(states.sort()).toEqual(Object.keys(table.states).sort());
  });

  test('the model and the code agree on who may run the guest, and on what is final', () => {
    const states = Object.entries(table.states);
    const named = (macro: string) => {
      const line = MODEL.split('\n').find((text) => text.startsWith(`#define ${macro} `)) ?? '';
      return [...line.matchAll(new RegExp(`== ${prefix}(\\w+)`, 'g'))].map((match) => match[1]).sort();
    };
    const where = (is: (state: { readonly final: boolean; readonly mayRunGuest: boolean }) => boolean) =>
      states
        .filter(([, state]) => is(state))
        .map(([name]) => name)
        .sort();
    const side = prefix.charAt(0).toUpperCase();
    expect(named(`${side}_RUNS`)).toEqual(where((state) => state.mayRunGuest));
    expect(named(`${side}_FINAL`)).toEqual(where((state) => state.final));
  });

  test('the diagram of the page has the transitions of the code and no other', () => {
    const section = PAGE.split('\n## ').find((text) => text.startsWith(heading)) ?? '';
    const drawn = [...section.matchAll(/^ {2}(\w+) --> (\w+): (\w+)$/gm)].map(
      ([, from, to, event]) => `${from} --${event}--> ${to}`,
    );
    expect(drawn.sort()).toEqual([...inCode].sort());
    const rows = [...section.matchAll(/^\| `(\w+)` \| (yes)? ?\| (yes|no)/gm)].map(([, state, final, may]) => ({
      state,
      final: final === 'yes',
      mayRunGuest: may === 'yes',
    }));
    expect(rows).toEqual(Object.entries(table.states).map(([state, flags]) => ({ state, ...flags })));
  });
});

/** Pages come in many frames; in the model, all frames of a round are one message. */
const FRAMES_OF: Readonly<Record<string, readonly FrameName[]>> = { round: PAGE_CHANNEL_FRAMES };

/**
 * Frames that the model leaves out, since no decision about the guest depends on them. In the model a request and its answer are one step:
 * a request alone tells nothing, and a lost answer has the same effect as no answer.
 */
const LEFT_OUT: readonly FrameName[] = [
  'requestPages',
  ...(['attach', 'device', 'received', 'digests', 'digestsEnd', 'verified', 'ping', 'pong'] as const),
  ...(['prepare', 'prepared', 'owed', 'loaded', 'probe', 'awaitPieces', 'arrived', 'loadEarly'] as const),
];

describe('the frames of the model and those of the protocol', () => {
  const messages = wordsOf('mtype = { m_', 'm_');
  const modelled = messages.flatMap(framesOf);

  test('every frame is in the model, or left out by name', () => {
    expect([...modelled, ...LEFT_OUT].sort()).toEqual(Object.keys(FRAME_TYPES).sort());
  });

  test.each([
    { role: 'source', macro: 'SOURCE_READS', prefix: 'S_' },
    { role: 'destination', macro: 'DESTINATION_READS', prefix: 'D_' },
  ] as const)('the $role reads in each phase what the table has there, and nothing else', ({ role, macro, prefix }) => {
    const read = new Map<string, string[]>();
    for (const [, phase = '', message = ''] of RIGHT.matchAll(
      new RegExp(`^(?!#).*?\\b${macro}\\((\\w+), (\\w+)\\)`, 'gm'),
    )) {
      expect(messages).toContain(message);
      expect(RIGHT).toMatch(new RegExp(`^#define ${prefix}${phase} \\(`, 'm'));
      read.set(phase, [...(read.get(phase) ?? []), ...framesOf(message)]);
    }
    const phases: Readonly<Record<string, readonly FrameName[]>> = PROTOCOL[role];
    const inTable = Object.entries(phases).map(([phase, frames]) => [
      phase,
      frames.filter((frame) => modelled.includes(frame)).sort(),
    ]);
    expect([...read.keys()].filter((phase) => phases[phase.replaceAll('_', '-')] === undefined)).toEqual([]);
    expect(Object.keys(phases).map((phase) => [phase, (read.get(phase.replaceAll('-', '_')) ?? []).sort()])).toEqual(
      inTable,
    );
  });

  test.each([
    { role: 'source', says: 'sourceSays', reader: 'destination' },
    { role: 'destination', says: 'destinationSays', reader: 'source' },
  ] as const)('whatever the $role says, the $reader may read in some phase', ({ says, reader }) => {
    const said = [...RIGHT.matchAll(new RegExp(`\\b${says}\\(m_(\\w+)`, 'g'))].flatMap(([, name = '']) =>
      framesOf(name),
    );
    if (reader === 'destination') said.push('hello');
    const legal = new Set([...ALWAYS, ...Object.values(PROTOCOL[reader]).flat()]);
    expect(said.length).toBeGreaterThan(4);
    expect(said.filter((frame) => !legal.has(frame))).toEqual([]);
    const heard = new Set(said);
    const read = [...Object.values(PROTOCOL[reader]).flat()].filter((frame) => modelled.includes(frame));
    expect(read.filter((frame) => !heard.has(frame))).toEqual([]);
  });

  test('the states of "resumed" and the stages of a hello are those of the frames', () => {
    expect(wordsOf('mtype = { r_', 'r_').sort()).toEqual([...RESUMED_STATES].sort());
    const stages = new Set([...RIGHT.matchAll(/\bstage [!=]= s_(\w+)/g)].map((match) => match[1]));
    expect([...stages, 'dryRun'].sort()).toEqual([...HELLO_STAGES].sort());
  });
});

test('every claim of the model is searched', () => {
  const named = [...MODEL.matchAll(/^ltl (\w+)/gm)].map((match) => match[1]);
  expect(named.sort()).toEqual(Object.keys(CLAIMS).sort());
});

test('every variant of the model is tried, and has one reason to be refused', () => {
  const bounds = [...MODEL.matchAll(/^#ifndef (\w+)\n#define \1 /gm)].map((match) => match[1]);
  expect(bounds).toEqual(['TROUBLES', 'ATTEMPTS']);
  const used = new Set([...MODEL.matchAll(/^#ifn?def (\w+)/gm)].map((match) => match[1]));
  expect([...used].sort()).toEqual([...bounds, ...VARIANTS.map(({ macro }) => macro)].sort());
  for (const { macro, claim, assertion } of VARIANTS) {
    expect([macro, (claim === undefined) !== (assertion === undefined)]).toEqual([macro, true]);
    if (claim !== undefined) expect(Object.keys(CLAIMS)).toContain(claim);
    if (assertion !== undefined) expect(RIGHT).toContain(assertion);
  }
});

describe('the reading of what Spin printed', () => {
  const good = `
(Spin Version 6.5.2 -- 6 December 2019)
	+ Partial Order Reduction

Full statespace search for:
	never claim         	- (not selected)
	assertion violations	+
	acceptance   cycles 	- (not selected)
	invalid end states	+

State-vector 116 byte, depth reached 139, errors: 0
  1408759 states, stored
  1364673 states, matched
  219.306	total actual memory usage

unreached in proctype Source
	(0 of 244 states)
unreached in proctype Destination
	(0 of 199 states)
`;
  const ofClaim = good
    .replace('- (not selected)', '+ (neverTwoRunners)')
    .replace('- (not selected)', '+ (fairness disabled)')
    .replace('assertion violations\t+', 'assertion violations\t+ (if within scope of claim)')
    .replace('invalid end states\t+', 'invalid end states\t- (disabled by never claim)');
  const bad = ofClaim
    .replace('errors: 0', 'errors: 1')
    .replace('\n(Spin', 'pan:1: assertion violated  !( !( !((sAlive)))) (at depth 113)\n(Spin')
    .replace('1408759 states, stored', '  9138 states, stored');

  test('a complete search without errors passes', () => {
    expect(passed(good, undefined)).toMatchObject({ states: 1408759, errors: 0, depth: 139 });
    expect(passed(ofClaim, 'neverTwoRunners')).toMatchObject({ states: 1408759 });
  });

  test('a line that only an illegal frame would reach is not code', () => {
    const illegal = good.replace('(0 of 199', '\tx.pml:7, state 4, "assert(0)"\n\t(1 of 199');
    expect(passed(illegal, undefined).errors).toBe(0);
  });

  test('the line whose assertion fails is found', () => {
    const trail = 'spin: /a/x.pml:2, Error: assertion violated\nspin: text of failed assertion: assert(sGranted)\n';
    expect(failedLine(trail, 'one\n  assert(sGranted);\nthree')).toBe('assert(sGranted);');
    expect(() => failedLine(trail, 'one')).toThrow('line 2');
    expect(() => failedLine('spin: trail ends after 3 steps\n', 'one')).toThrow('an assertion that fails');
  });

  test.each([
    ['nothing at all', ''],
    ['an error', good.replace('errors: 0', 'errors: 1')],
    ['an error that is not counted', `pan:1: invalid end state (at depth 9)\n${good}`],
    ['no states', good.replace('1408759 states, stored', '0 states, stored')],
    ['few states', good.replace('1408759 states, stored', '99999 states, stored')],
    ['a depth that did not suffice', `error: max search depth too small\n${good}`],
    ['too little memory', `pan: reached -DMEMLIM bound\n${good}`],
    ['no more memory', `pan: out of memory\n${good}`],
    ['a search that ended early', good.replace('\t+ Partial', 'Warning: Search not completed\n\t+ Partial')],
    ['a search of a part of the states', good.replace('Full statespace search', 'Bit statespace search')],
    ['code that is never reached', good.replace('(0 of 199', '\tx.pml:7, state 4, "skip"\n\t(1 of 199')],
    ['more code than is named', good.replace('(0 of 199', '\tx.pml:7, state 4, "assert(0)"\n\t(2 of 199')],
    ['nothing about code', good.replaceAll('unreached in proctype', 'unreached')],
    ['deadlocks that are not looked for', good.replace('invalid end states\t+', 'invalid end states\t- (disabled)')],
    ['assertions that are not looked at', good.replace('violations\t+', 'violations\t- (disabled)')],
    ['a claim instead', ofClaim],
  ])('%s does not pass', (_, output) => {
    expect(() => passed(output, undefined)).toThrow();
  });

  test.each([
    ['another claim', ofClaim.replace('+ (neverTwoRunners)', '+ (somebodyRuns)')],
    ['no claim', good],
    ['no look for cycles', ofClaim.replace('+ (fairness disabled)', '- (not selected)')],
    ['an error', bad],
  ])('%s is not the search of a claim', (_, output) => {
    expect(() => passed(output, 'neverTwoRunners')).toThrow();
  });

  test('a refusal is one error, of the claim that was asked for', () => {
    expect(refused(bad, 'neverTwoRunners').states).toBe(9138);
    expect(refused(bad.replace(/assertion violated .*\(at/, 'acceptance cycle (at'), 'neverTwoRunners').errors).toBe(1);
    const assertion = good
      .replace('errors: 0', 'errors: 1')
      .replace('\n(Spin', 'pan:1: assertion violated (dOwn==14) (at depth 120)\n(Spin');
    expect(refused(assertion, undefined).found).toBe('assertion violated (dOwn==14)');
    expect(() => refused(assertion, 'neverTwoRunners')).toThrow();
    expect(() => refused(bad, undefined)).toThrow();
    expect(() => refused(bad, 'somebodyRuns')).toThrow();
    expect(() => refused(ofClaim, 'neverTwoRunners')).toThrow();
    expect(() => refused(`error: max search depth too small\n${bad}`, 'neverTwoRunners')).toThrow();
  });
});

function transitionsOf(table: OwnershipTable<string, string>): string[] {
  return Object.keys(table.states).flatMap((from) =>
    Object.entries(table.transitions[from] ?? {}).map(([event, to]) => `${from} --${event}--> ${to}`),
  );
}

function framesOf(message: string): readonly FrameName[] {
  return FRAMES_OF[message] ?? [message as FrameName];
}

/** The names behind `prefix` in the line of the model that begins with `start`. */
function wordsOf(start: string, prefix: string): string[] {
  const line = MODEL.split('\n').find((text) => text.startsWith(start)) ?? '';
  return [...line.matchAll(new RegExp(`\\b${prefix}(\\w+)`, 'g'))].map((match) => match[1] ?? '');
}

/** The lines of the model that remain if no macro is defined. */
function withoutVariants(text: string): string {
  const open: boolean[] = [];
  const kept: string[] = [];
  for (const line of text.split('\n')) {
    if (/^#ifn?def /.test(line)) open.push(line.startsWith('#ifndef'));
    else if (line === '#else') open.push(!(open.pop() ?? true));
    else if (line === '#endif') open.pop();
    else if (!open.includes(false)) kept.push(line);
  }
  return kept.join('\n');
}
