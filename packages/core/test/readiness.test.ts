import { describe, expect, test } from '@jest/globals';
import { expectMoved, start, type Toy } from './toy-migration.js';

describe('an answer that is lost with its link', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])(
    'is given over the next one (cut %i steps after it was written)',
    async (steps) => {
      let cut = false;
      const toy: Toy = start({
        link: {
          capacity: 0,
          fromDestination: (frame, payload) => {
            if (frame.type === 'prepared' && !cut) {
              cut = true;
              void (async () => {
                for (let i = 0; i < steps; i++) await Promise.resolve();
                toy.link.cut();
              })();
            }
            return { frame, payload };
          },
        },
      });
      expectMoved(toy, await toy.settled());
      expect(cut).toBe(true);
    },
  );
});
