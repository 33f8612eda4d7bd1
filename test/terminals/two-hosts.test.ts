import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { type Terminal, Tmux } from './tmux.js';
import { DESTINATION_ADDRESS, TwoHosts } from './two-hosts.js';
import { GUEST, VmmUser } from './vmm-command.js';

jest.setTimeout(300_000);

const RELAY = fileURLToPath(new URL('./delay-relay.js', import.meta.url));
const DELAY_MS = 25;

/** For how long the link is down, in seconds. */
const OUTAGES = (process.env['GODWIT_OUTAGES'] ?? '3,15').split(',').map(Number);

const problem = Tmux.problem() ?? TwoHosts.problem();
const withHosts = problem === undefined ? describe : describe.skip;

withHosts(
  `two hosts, 400 Mbit/s, 0.5 % of packets lost${problem === undefined ? '' : ` (skipped: ${problem})`}`,
  () => {
    let user: VmmUser;
    let tmux: Tmux;
    let hosts: TwoHosts;
    let source: Terminal;
    let destination: Terminal;

    beforeEach(async () => {
      user = new VmmUser();
      tmux = new Tmux();
      hosts = new TwoHosts();
      source = tmux.open(user.line(['run', ...GUEST, '--control', user.path('a')], hosts.at(hosts.source)));
      const receive = ['receive', 'tcp:0.0.0.0:4444', '--reconnect-timeout', '60000', '--control', user.path('b')];
      destination = tmux.open(user.line(receive, hosts.at(hosts.destination)));
      await source.shows(/heartbeat 000002/);
      await destination.shows(/a guest may come to tcp:\/\/0\.0\.0\.0:4444/);
    });

    afterEach(() => {
      tmux.close();
      hosts.close();
      user.remove();
    });

    /** Starts a migration of the guest in a terminal, without any bound on its duration. */
    function migrate(to: string, ...options: readonly string[]): Terminal {
      return tmux.open(user.line(['migrate', to, '--verify', '--control', user.path('a'), ...options]));
    }

    async function expectMoved(mover: Terminal): Promise<void> {
      expect(await mover.exit(200_000)).toBe(0);
      await mover.shows(/moved to .*pages compared: equal/);
      expect(await source.exit()).toBe(0);
      const { status, last } = await user.json('check', '--control', user.path('b'));
      expect({ status, defects: last['defects'] }).toEqual({ status: 0, defects: [] });
    }

    test('the guest moves, is compared, and is checked; packets were lost on the way', async () => {
      await expectMoved(migrate(`tcp:${DESTINATION_ADDRESS}:4444`));
      expect(hosts.lostPackets()).toBeGreaterThan(0);
    });

    test(`and with ${DELAY_MS} ms each way`, async () => {
      const relay = [process.execPath, RELAY, '5555', DESTINATION_ADDRESS, '4444', String(DELAY_MS)];
      const terminal = tmux.open([...hosts.at(hosts.source), ...relay]);
      await terminal.shows(/listening/);
      const mover = migrate('tcp:127.0.0.1:5555');
      await expectMoved(mover);
      // Two round trips are among the terms of the downtime.
      const [, downtime] = await mover.shows(/down for ([\d.]+) ms/);
      expect(Number(downtime)).toBeGreaterThan(2 * 2 * DELAY_MS);
    });

    test.each(OUTAGES)('and with the link down for %d s', async (seconds) => {
      const mover = migrate(`tcp:${DESTINATION_ADDRESS}:4444`, '--bandwidth', '4M', '--reconnect-timeout', '60000');
      await mover.shows(/round 1: [1-9]\d? %/);
      hosts.link('down');
      await sleep(seconds * 1000);
      const { last } = await user.json('status', '--control', user.path('a'));
      expect(last).toMatchObject({ guest: 'running', migration: { guest: 'here' } });
      hosts.link('up');
      await user.vmm('adjust', '--bandwidth', '0', '--control', user.path('a'));
      await expectMoved(mover);
    });
  },
);
