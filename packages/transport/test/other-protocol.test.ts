import { type GodwitError, migrate } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { connectTo, type Listener, listenOn, type Transport, tcp, tls, webSocket } from '@godwit/transport';
import { testCertificate as certificate } from '@godwit/transport/testing';
import { expect, jest, test } from '@jest/globals';

jest.setTimeout(20_000);

const authority = certificate('authority');
const server = certificate('server', { signer: authority, hosts: ['127.0.0.1'] });
const client = certificate('client', { signer: authority });
const listening = { ca: authority.cert, cert: server.cert, key: server.key };
const connecting = { ca: authority.cert, cert: client.cert, key: client.key };

type Refused = (error: GodwitError) => void;

const LISTENERS = {
  tcp: () => tcp({ port: 0 }),
  tls: (onRefused: Refused) => tls({ port: 0, ...listening, onRefused }),
  ws: (onRefused: Refused) => webSocket({ port: 0, onRefused }),
  wss: (onRefused: Refused) => webSocket({ port: 0, tls: listening, onRefused }),
} as const;

const SOURCES = {
  tcp: (port: number) => tcp({ port }),
  tls: (port: number) => tls({ port, ...connecting }),
  ws: (port: number) => webSocket({ port }),
  wss: (port: number) => webSocket({ port, tls: connecting }),
} as const;

type Protocol = keyof typeof SOURCES;

const NOT_TLS = /the listener does not speak TLS; let it listen with tls\(\.\.\.\), or compare the ports/;
const NO_TLS_AT_WSS = /the listener does not speak TLS \(\w+.*\); connect with ws: or tcp\(\.\.\.\), or let it listen/;
const TLS_AT_TCP = /expected a frame, .* got 16 03 .*looks like TLS; one side encrypts and the other does not/;
const HTTP_AT_FRAMES = /expected a frame, .* got 47 45 54 .*looks like HTTP; .*webSocket\(\.\.\.\) at both sides/;
const HTTP_AT_SOURCE = /expected a frame, .* got 48 54 54 50 .*looks like HTTP; .*webSocket\(\.\.\.\) at both sides/;
const TLS_ALERT = /expected a frame, .* got 15 03 .*a TLS alert; one side encrypts and the other does not: use tls/;
const FRAMES_AT_HTTP = /it does not speak HTTP; connect with webSocket\(\.\.\.\), not with tcp\(\.\.\.\) or tls/;
const TLS_AT_WS = /it speaks TLS, and this port does not; connect with ws: in place of wss:, or give the listener tls/;

/** The source's protocol, the listener's, and what each of them is told. */
const PAIRS: readonly (readonly [source: Protocol, listener: Protocol, source: RegExp, listener: RegExp])[] = [
  [
    'ws',
    'tcp',
    /does not speak HTTP \(HPE_\w+\); it speaks the frames of tcp\(\.\.\.\); let it listen/,
    HTTP_AT_FRAMES,
  ],
  [
    'ws',
    'tls',
    /the listener speaks TLS, .*ws: is plain HTTP .*; connect with tls\(\.\.\.\)/,
    /speaks HTTP and not TLS; connect with tls/,
  ],
  [
    'ws',
    'wss',
    /the listener speaks TLS, .*; connect with wss: in place of ws:/,
    /speaks HTTP and not TLS; connect with wss:/,
  ],
  ['wss', 'tcp', NO_TLS_AT_WSS, TLS_AT_TCP],
  [
    'wss',
    'tls',
    /does not speak HTTP \(HPE_\w+\); it speaks the frames of tls\(\.\.\.\); let it listen/,
    HTTP_AT_FRAMES,
  ],
  ['wss', 'ws', NO_TLS_AT_WSS, TLS_AT_WS],
  ['tcp', 'tls', TLS_ALERT, /it does not speak TLS; connect with tls\(\.\.\.\), not with tcp/],
  ['tcp', 'ws', HTTP_AT_SOURCE, FRAMES_AT_HTTP],
  ['tcp', 'wss', TLS_ALERT, /it does not speak TLS; connect with wss:, not with ws: or tcp/],
  ['tls', 'tcp', NOT_TLS, TLS_AT_TCP],
  ['tls', 'ws', NOT_TLS, TLS_AT_WS],
  ['tls', 'wss', HTTP_AT_SOURCE, FRAMES_AT_HTTP],
];

test.each(PAIRS)(
  'a %s: source at a %s: port fails at its first attempt, both sides are told, and the guest runs on',
  async (source, listener, sourceTold, listenerTold) => {
    const refusals: GodwitError[] = [];
    let refused: () => void = () => {};
    const first = new Promise<void>((resolve) => {
      refused = resolve;
    });
    const onRefused: Refused = (error) => {
      refusals.push(error);
      refused();
    };
    const carrier: Transport<Listener & { readonly port: number }> = LISTENERS[listener](onRefused);
    const links = await listenOn(carrier, { onRefused });
    try {
      const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 4096 }], { running: true });
      // Attempts that may be repeated would go on for longer than the test may take.
      const options = { connectTimeoutMs: 600_000, reconnectTimeoutMs: 600_000 };
      const migration = migrate(vm, connectTo(SOURCES[source](links.listener.port)), options);
      const failure = await migration.result.then(
        () => undefined,
        (error: GodwitError) => error,
      );
      expect(failure).toMatchObject({ message: expect.stringMatching(sourceTold), retry: false, remote: false });
      await first;
      expect(refusals.map(({ message }) => message)).toEqual([expect.stringMatching(listenerTold)]);
      expect(refusals[0]?.retry).toBe(false);
      expect(vm.running).toBe(true);
    } finally {
      await links.close();
    }
  },
);
