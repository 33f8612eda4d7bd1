import { engineParts, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { map, type Observable, Subject, take, toArray } from 'rxjs';
import { BLOCKS, expectMoved, filledVm, start, type Toy } from './toy-migration.js';

/** A role whose events are numbers; -1 tells a late subscriber that it has begun. */
class Numbers extends engineParts.RoleEvents<number> {
  readonly failures: unknown[];
  begun: boolean;

  constructor() {
    const failures: unknown[] = [];
    super(
      () => (this.begun ? -1 : undefined),
      (error) => failures.push(error),
    );
    this.failures = failures;
    this.begun = false;
  }

  say(...numbers: readonly number[]): void {
    for (const number of numbers) this.events.next(number);
  }

  end(): void {
    this.events.complete();
  }
}

const boom = (what: unknown = undefined): void => {
  throw new Error(`boom ${what}`);
};

describe('a subscriber that throws', () => {
  test.each<readonly [string, (numbers: Numbers) => void]>([
    ['from a function', (numbers) => void numbers.subscribe(boom)],
    ['from an observer', (numbers) => void numbers.subscribe({ next: boom })],
    ['from the end', (numbers) => void numbers.subscribe({ complete: () => boom(1) })],
    ['from the end, as the third argument', (numbers) => void numbers.subscribe(null, null, () => boom(1))],
    ['in an operator', (numbers) => void numbers.pipe(map(boom)).subscribe()],
    [
      'in an operator, from the handler of its error',
      (numbers) => void numbers.pipe(map(boom)).subscribe({ error: boom }),
    ],
    ['behind two operators', (numbers) => void numbers.pipe(map(Number), take(5)).subscribe(boom)],
  ])('%s harms nobody, and is told once', (_, subscribe) => {
    const numbers = new Numbers();
    const heard: number[][] = [[], []];
    numbers.subscribe((number) => heard[0]?.push(number));
    subscribe(numbers);
    numbers.subscribe((number) => heard[1]?.push(number));
    expect(() => {
      numbers.say(1, 2, 3);
      numbers.end();
    }).not.toThrow();
    expect(heard).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ]);
    expect(numbers.failures).toEqual([expect.any(Error)]);
  });

  test('goes on hearing', () => {
    const numbers = new Numbers();
    const heard: number[] = [];
    numbers.subscribe((number) => {
      heard.push(number);
      boom();
    });
    numbers.say(1, 2);
    expect([heard, numbers.failures.length]).toEqual([[1, 2], 1]);
  });

  test('is told for each subscriber, with what it threw', () => {
    const numbers = new Numbers();
    for (const what of ['one', 'other']) numbers.subscribe(() => boom(what));
    numbers.say(1, 2);
    expect(numbers.failures.map((failure) => (failure as Error).message)).toEqual(['boom one', 'boom other']);
  });

  test('at once, as a late one that is told the present state', () => {
    const numbers = new Numbers();
    numbers.begun = true;
    expect(() => numbers.subscribe(boom)).not.toThrow();
    expect(numbers.failures).toHaveLength(1);
  });
});

describe('an error of a pipeline', () => {
  test('goes to its own handler, if it has one', () => {
    const numbers = new Numbers();
    const errors: unknown[] = [];
    numbers.pipe(map(boom)).subscribe({ error: (error) => errors.push(error) });
    numbers.pipe(map(boom)).subscribe(null, (error) => errors.push(error));
    numbers.say(1);
    expect([errors.length, numbers.failures]).toEqual([2, []]);
  });

  test('goes to a promise that is made of it', async () => {
    const numbers = new Numbers();
    const all = new Promise((resolve, reject) => {
      (numbers.pipe(map(boom), toArray()) as Observable<unknown>).subscribe({ next: resolve, error: reject });
    });
    numbers.say(1);
    await expect(all).rejects.toThrow('boom');
    expect(numbers.failures).toEqual([]);
  });

  test('that joins another source keeps that source whole', () => {
    const numbers = new Numbers();
    const other = new Subject<number>();
    numbers.subscribe(other);
    const heard: number[] = [];
    other.subscribe((number) => heard.push(number));
    numbers.say(1);
    numbers.end();
    numbers.say(2);
    expect(heard).toEqual([1]);
  });
});

describe('who subscribes when', () => {
  test('before the start hears all, without a status; after it, the status first and then what comes; no replay', () => {
    const numbers = new Numbers();
    const [early, late]: [unknown[], unknown[]] = [[], []];
    numbers.subscribe((number) => early.push(number));
    numbers.begun = true;
    numbers.say(1);
    numbers.subscribe({ next: (number) => late.push(number), complete: () => late.push('end') });
    numbers.say(2);
    numbers.end();
    expect([early, late]).toEqual([
      [1, 2],
      [-1, 2, 'end'],
    ]);
  });

  test('after the end hears the status, and the end', () => {
    const numbers = new Numbers();
    numbers.begun = true;
    numbers.end();
    const heard: unknown[] = [];
    numbers.subscribe({ next: (number) => heard.push(number), complete: () => heard.push('end') });
    expect(heard).toEqual([-1, 'end']);
  });

  test('and leaves hears nothing more; the others do', () => {
    const numbers = new Numbers();
    const [left, stays]: [number[], number[]] = [[], []];
    const subscription = numbers.subscribe((number) => left.push(number));
    numbers.subscribe((number) => stays.push(number));
    numbers.say(1);
    subscription.unsubscribe();
    numbers.say(2);
    expect([left, stays]).toEqual([[1], [1, 2]]);
  });
});

/** Both ends, as far as they have this in common. */
const roles = ({ migration, incoming }: Toy) =>
  [migration, incoming] as unknown as readonly (Observable<unknown> & { status(): { readonly state: string } })[];

describe('both roles of a migration', () => {
  test('go on when every subscriber throws at every event; the others are warned, once for each', async () => {
    const toy = start();
    for (const role of roles(toy)) {
      role.subscribe(boom);
      role.pipe(map(boom)).subscribe();
    }
    expectMoved(toy, await toy.settled());
    const warned = (events: readonly { readonly type: string }[]) => events.filter(({ type }) => type === 'warning');
    const warning = expect.objectContaining({
      code: 'GODWIT_INTERNAL',
      message: expect.stringContaining('subscriber'),
    });
    expect(warned(toy.events)).toEqual([warning, warning]);
    expect(warned(toy.incomingEvents)).toEqual([warning, warning]);
  });

  test('go on when everybody unsubscribes; a late subscriber is told how it ended, and that it has', async () => {
    const toy = start({ source: filledVm(), destination: new ToyVm(BLOCKS, { running: false }) });
    toy.unsubscribe();
    expectMoved(toy, await toy.settled());
    for (const role of roles(toy)) {
      const heard: unknown[] = [];
      role.subscribe({ next: (event) => heard.push(event), complete: () => heard.push('end') });
      expect(heard).toEqual([{ type: 'status', status: role.status() }, 'end']);
      expect(role.status()).toMatchObject({ state: 'completed' });
    }
  });
});
