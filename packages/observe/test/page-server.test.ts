import { createServer } from 'node:net';
import type { MigrationEvent } from '@godwit/core';
import { type Observation, observe, type PageServer } from '@godwit/observe';
import { type MigrationModel, type ModelPatch, patched } from '@godwit/observe/model';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { roundEvent } from './events.js';
import { ask, EventReader } from './http.js';
import { ToyMigration } from './toy-migration.js';

let toy: ToyMigration;
let observation: Observation;
let page: PageServer;

const begin = async () => {
  toy = new ToyMigration({ bytesPerSecond: 8 * 2 ** 20 });
  observation = observe(toy.migration, { incoming: toy.incoming });
  page = await observation.serve();
};

const end = async () => {
  await observation.close();
  await toy[Symbol.asyncDispose]();
};

describe('the page', () => {
  beforeAll(begin);
  afterAll(end);

  test('is served to this host alone, by default', () => {
    expect(page.url).toBe(`http://127.0.0.1:${page.port}/`);
  });

  test('has every file that it names, and its policy forbids everything else', async () => {
    const { status, headers, body } = await ask(page.port, '/');
    expect(status).toBe(200);
    expect(headers['content-type']).toBe('text/html; charset=utf-8');
    const policy = headers['content-security-policy'] ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toContain('unsafe');
    expect(headers).toMatchObject({ 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' });
    const named = [...body.matchAll(/(?:src|href)="(\/[^"]*)"/g)].map(([, path = '']) => path);
    const modules = new Set(named);
    for (const path of modules) {
      const part = await ask(page.port, path);
      expect([path, part.status]).toEqual([path, 200]);
      expect(part.headers['content-security-policy']).toBe(policy);
      for (const [, from = ''] of part.body.matchAll(/^import [^;]*'(\.[^']*)';$/gm)) {
        modules.add(new URL(from, `http://x${path}`).pathname);
      }
    }
    expect(modules.size).toBeGreaterThan(10);
    expect(body).not.toMatch(/https?:\/\/(?!www\.w3\.org)/);
  });

  test.each([
    ['127.0.0.1:80', 200],
    ['localhost', 200],
    ['LOCALHOST:1234', 200],
    ['[::1]:80', 200],
    ['192.168.1.7:8080', 200],
    ['evil.example', 421],
    ['evil.example:80', 421],
    ['127.0.0.1.evil.example', 421],
    ['localhost.evil.example', 421],
    ['localhost@evil.example', 421],
    ['[::1].evil.example', 421],
    ['?', 421],
  ])('asked for under the name "%s" answers %d', async (host, status) => {
    expect((await ask(page.port, '/model.json', { host })).status).toBe(status);
    if (status !== 200) expect((await ask(page.port, '/events', { host })).status).toBe(status);
  });

  test('is served under a name that was allowed', async () => {
    const other = await observation.serve({ allowedHosts: ['watch.example'] });
    expect((await ask(other.port, '/', { host: 'watch.example:8443' })).status).toBe(200);
    expect((await ask(other.port, '/', { host: 'other.example' })).status).toBe(421);
    await other.close();
  });

  test.each(['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])('cannot be asked to %s', async (method) => {
    const { status, headers } = await ask(page.port, '/', { method });
    expect([status, headers['allow']]).toEqual([405, 'GET, HEAD']);
  });

  test('answers HEAD as GET, without the body', async () => {
    for (const path of ['/', '/model.json', '/page/main.js', '/events']) {
      const { status, body } = await ask(page.port, path, { method: 'HEAD' });
      expect([path, status, body]).toEqual([path, 200, '']);
    }
  });

  test.each(['/nothing', '/page/', '/page/../index.js', '/..%2fpackage.json', '/metrics'])(
    'has no %s',
    async (path) => {
      expect((await ask(page.port, path)).status).toBe(404);
    },
  );

  test('serves the metrics that it is given', async () => {
    const metrics = { contentType: 'text/plain; version=0.0.4', metrics: async () => 'godwit_up 1\n' };
    const other = await observation.serve({ metrics });
    const { headers, body } = await ask(other.port, '/metrics');
    expect([headers['content-type'], body]).toEqual(['text/plain; version=0.0.4', 'godwit_up 1\n']);
    await other.close();
  });

  test('at a port that is taken says so, with what to do', async () => {
    const taken = createServer();
    const port = await new Promise<number>((resolve) => {
      taken.listen(0, '127.0.0.1', () => resolve((taken.address() as { port: number }).port));
    });
    await expect(observation.serve({ port })).rejects.toMatchObject({
      code: 'GODWIT_SYSCALL',
      message: expect.stringMatching(`port ${port}: .*EADDRINUSE.*; choose another port`),
    });
    await new Promise((resolve) => taken.close(resolve));
    await expect(observation.serve({ port: 65_536 })).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
  });
});

describe('the events', () => {
  beforeEach(begin);
  afterEach(end);

  test('begin with the whole model, and their patches make the final model', async () => {
    const reader = new EventReader(page.url);
    let model: MigrationModel | undefined;
    do {
      model = patched(model, (await reader.next()) as ModelPatch);
    } while (!model.over);
    reader.close();
    await toy.over();
    const { samples, rounds, log, ...head } = observation.model();
    expect(model).toMatchObject({ rounds: { count: rounds.count } });
    expect(model.rounds.kept).toEqual(rounds.kept);
    expect(model.log.entries).toEqual(log.entries.slice(0, model.log.entries.length));
    expect(model.samples.atMs).toEqual(samples.atMs);
    expect(model.guest).toBe(head.guest);
  });

  test('after the first one are changes only, however large the model is', async () => {
    const listeners: ((event: MigrationEvent) => void)[] = [];
    const own = observe({
      subscribe(next: (event: MigrationEvent) => void) {
        listeners.push(next);
        return { unsubscribe() {} };
      },
    });
    const tell = (event: MigrationEvent) => {
      for (const listener of listeners) listener(event);
    };
    // The model is far larger than a socket's buffer.
    for (let round = 1; round <= 150; round++)
      tell(roundEvent(round, { decision: { action: 'continue', reason: 'x'.repeat(400) } }));
    const server = await own.serve();
    const reader = new EventReader(server.url);
    const first = (await reader.next()) as ModelPatch;
    expect(first.rounds).toMatchObject({ from: 0, items: { length: 150 } });
    // The first patch has the whole model again, since no patch was made before it.
    await reader.next();
    for (let round = 151; round <= 155; round++) {
      tell(roundEvent(round));
      let patch: ModelPatch;
      do {
        patch = (await reader.next()) as ModelPatch;
        expect(patch.rounds.from).toBeGreaterThanOrEqual(150);
      } while (patch.rounds.items.length === 0);
      expect(patch.rounds.items.map((one) => one.round)).toEqual([round]);
    }
    reader.close();
    await own.close();
  });

  test('come to each viewer, and the viewers are counted', async () => {
    const readers = [new EventReader(page.url), new EventReader(page.url)];
    const firsts = (await Promise.all(readers.map((reader) => reader.next()))) as ModelPatch[];
    expect(firsts.map(({ log }) => log.from)).toEqual([0, 0]);
    expect(page.viewers).toBe(2);
    for (const reader of readers) reader.close();
    while (page.viewers > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  test('are refused to the 65th viewer', async () => {
    const readers = Array.from({ length: 64 }, () => new EventReader(page.url));
    await Promise.all(readers.map((reader) => reader.next()));
    const { status, headers } = await ask(page.port, '/events');
    expect([status, headers['retry-after']]).toEqual([503, '5']);
    for (const reader of readers) reader.close();
  });

  test('end with the page, and so does everything else that is open', async () => {
    const reader = new EventReader(page.url);
    await reader.next();
    await observation.close();
    await reader.ended;
    await expect(ask(page.port, '/')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    // A second `close` does nothing.
    await page.close();
    expect(toy.migration.state).not.toBe('cancelled');
  });
});
