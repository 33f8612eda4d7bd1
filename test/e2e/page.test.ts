import { get } from 'node:http';
import { createServer } from 'node:net';
import { expect, jest, test } from '@jest/globals';
import { DemoProcess } from './demo-process.js';

jest.setTimeout(180_000);

const SMALL = ['--no-kvm', '--memory', '64M', '--dirty-rate', '200', '--max-bandwidth', '0', '--settle', '1'];

test('the demo with --page tells its migration live, both sides, with the numbers of its own summary', async () => {
  const demo = new DemoProcess('--page', ...SMALL);
  const { url } = (await demo.until(({ event }) => event === 'page')) as unknown as { url: string };
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
  await demo.until(({ event }) => event === 'gap');
  const model = JSON.parse(await body(`${url}model.json`));
  const { status } = await demo.exit;
  demo.expectNoFailure();
  expect(status).toBe(0);
  const [summary] = demo.all('migrated');
  expect(model).toMatchObject({ over: true, guest: 'destination', title: 'A guest of 64 MiB over tcp' });
  expect(model.source.summary.downtimeMs).toBeCloseTo(summary?.['downtimeMs'] as number, 2);
  expect(model.source.summary.wireBytes).toBe(summary?.['wireBytes']);
  const rounds = summary?.['rounds'] as readonly unknown[] | undefined;
  expect(model.rounds.count).toBe(rounds?.length);
  expect(model.source.states.path.map(({ state }: { state: string }) => state).slice(-2)).toEqual([
    'device',
    'completed',
  ]);
  expect(model.destination).toMatchObject({ states: { state: 'completed' }, ownership: 'settled' });
  // Without a terminal, the page ends with the demo.
  await expect(body(url)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
});

test('a port that is taken is said before anything boots', async () => {
  const taken = createServer();
  const port = await new Promise<number>((resolve) => {
    taken.listen(0, '127.0.0.1', () => resolve((taken.address() as { port: number }).port));
  });
  const demo = new DemoProcess('--page', String(port), ...SMALL);
  const { status } = await demo.exit;
  taken.close();
  expect(status).toBe(2);
  expect(demo.lines).toEqual([]);
  expect(demo.stderr).toMatch(`error: the page cannot be served at 127.0.0.1, port ${port}`);
});

function body(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(url, { agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    });
    request.on('error', reject);
  });
}
