import { readFileSync } from 'node:fs';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { applyDelta, checkDeltas, encodeDelta, putVarint } = engineParts;

const PAGE = 256;
const DOCUMENT = readFileSync(new URL('../../../../docs/wire-format.md', import.meta.url), 'utf8');
const SECTION = DOCUMENT.slice(DOCUMENT.indexOf('## 8. Encoded pages'), DOCUMENT.indexOf('## 9. '));
const [VECTORS = [], MALFORMED = []] = [...SECTION.matchAll(/```text\n([^`]*)```/g)].map(([, body = '']) =>
  body.trim().split('\n'),
);
const bytesOf = (hex = '') => Uint8Array.from(hex.match(/../g) ?? [], (digits) => Number.parseInt(digits, 16));
const hexOf = (bytes: Uint8Array) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
const code = (expected: string) => expect.objectContaining({ code: expected });

/** Pages as a guest's versions are: the same but for a few stretches, or nothing alike. */
const versions = fc
  .tuple(
    fc.uint8Array({ minLength: PAGE, maxLength: PAGE }),
    fc.oneof(
      fc.array(fc.tuple(fc.nat(PAGE - 1), fc.uint8Array({ minLength: 1, maxLength: 40 })), { maxLength: 8 }),
      fc.uint8Array({ minLength: PAGE, maxLength: PAGE }).map((all) => [[0, all] as [number, Uint8Array]]),
    ),
  )
  .map(([before, writes]) => {
    const after = before.slice();
    for (const [at, bytes] of writes) after.set(bytes.subarray(0, PAGE - at), at);
    return { before, after };
  });

/** Encodes one page; what lies around it in every buffer is checked to stay as it was. */
function encode(before: Uint8Array, after: Uint8Array, most = PAGE * 2) {
  const now = new Uint8Array(PAGE * 3).fill(0x11);
  const old = new Uint8Array(PAGE * 3).fill(0x22);
  const out = new Uint8Array(PAGE * 4).fill(0x33);
  now.set(after, PAGE);
  old.set(before, PAGE);
  const words = new Int32Array(old.buffer);
  const end = encodeDelta(
    new Int32Array(now.buffer),
    PAGE / 4,
    { words, bytes: old },
    PAGE / 4,
    PAGE / 4,
    out,
    5,
    5 + most,
  );
  expect(now.subarray(PAGE, PAGE * 2)).toEqual(after);
  for (const around of [old.subarray(0, PAGE), old.subarray(PAGE * 2)])
    expect(around.every((b) => b === 0x22)).toBe(true);
  for (const around of [out.subarray(0, 5), out.subarray(5 + most)]) expect(around.every((b) => b === 0x33)).toBe(true);
  return { version: old.slice(PAGE, PAGE * 2), delta: end === -1 ? undefined : out.slice(5, end) };
}

function payloadOf(deltas: readonly Uint8Array[]): Uint8Array {
  const payload = new Uint8Array(deltas.reduce((sum, { length }) => sum + length + 4, 0));
  let at = 0;
  for (const delta of deltas) {
    at = putVarint(payload, at, delta.length);
    payload.set(delta, at);
    at += delta.length;
  }
  return payload.slice(0, at);
}

describe('the vectors of the wire format', () => {
  test.each(VECTORS)('%s', (line) => {
    const [before, payload, after] = line.split(' ').map((hex) => bytesOf(hex)) as [Uint8Array, Uint8Array, Uint8Array];
    checkDeltas(payload, 1, before.length);
    expect(applyDelta(payload, 0, before, 0)).toBe(payload.length);
    expect(hexOf(before)).toBe(hexOf(after));
  });

  test.each(MALFORMED)('refused: %s', (line) => {
    expect(() => checkDeltas(bytesOf(line), 1, 16)).toThrow(code('GODWIT_PROTOCOL'));
  });

  test('there are some', () => {
    expect(VECTORS).toHaveLength(7);
    expect(MALFORMED).toHaveLength(6);
  });
});

describe('a delta', () => {
  test('makes the new version of the old one, and the two sides remember the same', () => {
    fc.assert(
      fc.property(versions, ({ before, after }) => {
        const { version, delta } = encode(before, after);
        expect(version).toEqual(after);
        const payload = payloadOf([delta as Uint8Array]);
        checkDeltas(payload, 1, PAGE);
        const theirs = before.slice();
        applyDelta(payload, 0, theirs, 0);
        expect(theirs).toEqual(after);
      }),
    );
  });

  test('that would be too long is none, and the new version is remembered all the same', () => {
    fc.assert(
      fc.property(versions, fc.nat(PAGE), ({ before, after }, most) => {
        const { version, delta } = encode(before, after, most);
        expect(version).toEqual(after);
        if (delta !== undefined) expect(delta.length).toBeLessThanOrEqual(most);
      }),
    );
  });

  test('of a page that did not change is empty, of one word six bytes', () => {
    const page = new Uint8Array(PAGE).map((_, i) => i);
    const other = page.slice();
    other[200] = 0;
    expect(encode(page, page).delta).toHaveLength(0);
    expect(encode(page, other).delta).toEqual(Uint8Array.of(0xc8, 0x01, 4, 0, 201, 202, 203));
  });

  test('of a page that is written meanwhile holds what is remembered, and nothing else', () => {
    const before = new Uint8Array(PAGE).fill(1);
    // Reads of the guest's memory see another value every time.
    let reads = 0;
    const restless = new Proxy(new Int32Array(PAGE / 4), {
      get: (target, at) => (typeof at === 'string' && /^\d+$/.test(at) ? reads++ : Reflect.get(target, at)),
    });
    const old = before.slice();
    const out = new Uint8Array(PAGE * 4);
    const end = encodeDelta(
      restless,
      0,
      { words: new Int32Array(old.buffer), bytes: old },
      0,
      PAGE / 4,
      out,
      0,
      PAGE * 4,
    );
    const payload = payloadOf([out.subarray(0, end)]);
    checkDeltas(payload, 1, PAGE);
    applyDelta(payload, 0, before, 0);
    expect(before).toEqual(old);
    expect(reads).toBeGreaterThan(0);
  });
});

describe('checking', () => {
  const deltas = fc
    .array(versions, { minLength: 1, maxLength: 5 })
    .map((pages) => pages.map(({ before, after }) => encode(before, after).delta as Uint8Array));

  /** Applies what passes and reports where it wrote; nothing around the pages may change. */
  function survives(payload: Uint8Array, pages: number): void {
    try {
      checkDeltas(payload, pages, PAGE);
    } catch (error) {
      expect(error).toEqual(code('GODWIT_PROTOCOL'));
      return;
    }
    let at = 0;
    for (let page = 0; page < pages; page++) {
      const memory = new Uint8Array(PAGE * 3).fill(0x77);
      at = applyDelta(payload, at, memory, PAGE);
      expect(memory.subarray(0, PAGE).every((byte) => byte === 0x77)).toBe(true);
      expect(memory.subarray(PAGE * 2).every((byte) => byte === 0x77)).toBe(true);
    }
    expect(at).toBe(payload.length);
  }

  test('lets nothing through that writes outside its page, whatever the payload', () => {
    const small = fc.array(fc.oneof(fc.nat(4), fc.nat(255), fc.constantFrom(0x7f, 0x80, 0xff)), { maxLength: 40 });
    fc.assert(
      fc.property(small, fc.integer({ min: 1, max: 4 }), (bytes, pages) => survives(Uint8Array.from(bytes), pages)),
      { numRuns: 3000 },
    );
  });

  test('nor through a good payload that was altered or cut', () => {
    fc.assert(
      fc.property(deltas, fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean(), (list, where, change, cut) => {
        const payload = payloadOf(list);
        const at = where % payload.length;
        if (cut) {
          expect(() => checkDeltas(payload.subarray(0, at), list.length, PAGE)).toThrow(code('GODWIT_PROTOCOL'));
        } else {
          payload[at] = (payload[at] as number) ^ change;
          survives(payload, list.length);
        }
      }),
      { numRuns: 500 },
    );
  });
});
