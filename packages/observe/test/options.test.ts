import { observe, observeIncoming } from '@godwit/observe';
import { Telemetry } from '@godwit/observe/opentelemetry';
import { PrometheusMetrics } from '@godwit/observe/prometheus';
import { describe, expect, test } from '@jest/globals';
import { Registry } from 'prom-client';
import { closingAfterEach } from './close-later.js';
import { SOURCE_EVENTS, scripted } from './scripted.js';

const closeLater = closingAfterEach();

/** Stands for an object that must not be used before the options are checked. */
const nothing = {} as never;

async function refusal(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    expect(error).toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT', retry: false });
    return (error as Error).message;
  }
  throw new Error('it was accepted');
}

describe('an option that does not exist is refused:', () => {
  const served = () => closeLater(observe(scripted(SOURCE_EVENTS)));
  test.each<readonly [string, () => unknown, string]>([
    ['observe', () => observe(nothing, { titel: 'x' } as never), 'did you mean "title"?'],
    ['observe', () => observeIncoming(nothing, { titel: 'x' } as never), 'did you mean "title"?'],
    ['observe: limits', () => observe(nothing, { limits: { downtimeLimit: 1 } as never }), '"downtimeLimitMs"?'],
    ['serve', () => served().serve({ prot: 8080 } as never), 'did you mean "port"?'],
    ['serve', () => served().serve({ allowedHost: ['x'] } as never), 'did you mean "allowedHosts"?'],
    ['PrometheusMetrics', () => new PrometheusMetrics(nothing, { labels: ['vm'] } as never), 'it has labelNames'],
    ['Telemetry', () => new Telemetry({ metre: nothing } as never), 'did you mean "meter"?'],
    [
      'watch',
      () => new PrometheusMetrics(new Registry()).watch(nothing, { label: { vm: 'a' } } as never),
      'did you mean "labels"?',
    ],
    ['watchIncoming', () => new Telemetry().watchIncoming(nothing, { vm: 'a' } as never), 'it has labels, now'],
  ])('%s', async (what, call, message) => {
    const told = await refusal(call);
    expect(told).toContain(`${what} has no option`);
    expect(told).toContain(message);
  });
});

test('a port that is text is quoted as it was given', async () => {
  const observation = closeLater(observe(scripted(SOURCE_EVENTS)));
  expect(await refusal(() => observation.serve({ port: '50' as never }))).toBe(
    "port must be a whole number from 0 to 65535, got '50', a string",
  );
});
