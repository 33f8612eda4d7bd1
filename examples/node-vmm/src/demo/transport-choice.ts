import { GodwitError, suggestion } from '@godwit/core';
import { type TlsCredentials, transportFromUri } from '@godwit/transport';
import { testCertificate } from '@godwit/transport/testing';

/** The transport between the two hosts, from `--transport`: a kind by its name, or an address to listen on. */
export interface TransportChoice {
  readonly kind: TransportKind;
  /**
   * The address at which the destination listens, in the form of `transportFromUri`; `undefined`: a UNIX socket in a
   * folder of its own.
   */
  readonly listenOn: string | undefined;
}

/** For each kind, the destination's default address. */
const LISTENING = {
  tcp: 'tcp:127.0.0.1:0',
  tls: 'tls:127.0.0.1:0',
  unix: undefined,
  ws: 'ws://127.0.0.1:0/',
  wss: 'wss://127.0.0.1:0/',
} as const;

export type TransportKind = keyof typeof LISTENING;

export const TRANSPORT_KINDS = Object.keys(LISTENING) as readonly TransportKind[];

/**
 * The reasons why the other schemes of `transportFromUri` do not suit two processes that find each other by an address.
 */
const OTHER_SCHEMES: Readonly<Record<string, string>> = {
  exec: 'exec: starts a command, and there is nothing to listen on; the demo has two processes already',
  stdio: 'stdio: is for a program that another one starts; the demo prints on standard output',
  file: 'file: is a snapshot, which no second process receives while the guest runs',
};

/** The name in the temporary certificates, which does not depend on the address. */
const SERVER_NAME = 'godwit-demo';

/** Whether each page channel can have a thread of its own: only plain sockets can move to one. */
export function takesWorkers({ kind }: TransportChoice): boolean {
  return kind === 'tcp' || kind === 'unix';
}

export function isEncrypted({ kind }: TransportChoice): boolean {
  return kind === 'tls' || kind === 'wss';
}

/** Reads `tcp`, `tls:0.0.0.0:4444`, `unix:/run/vm.sock`, ... Returns the reason as text if it cannot be used. */
export function parseTransport(text: string): TransportChoice | string {
  const scheme = (text.split(':')[0] ?? '').toLowerCase();
  const kind = TRANSPORT_KINDS.find((name) => name === scheme);
  if (kind === undefined) {
    return (
      OTHER_SCHEMES[scheme] ??
      `--transport wants ${TRANSPORT_KINDS.join(', ')}, or an address such as tls:127.0.0.1:4444${suggestion(scheme, TRANSPORT_KINDS)}`
    );
  }
  if (!text.includes(':')) return { kind, listenOn: LISTENING[kind] };
  try {
    // The transport is made only to check the text, so that any credentials suffice.
    transportFromUri(text, { tls: { psk: { identity: SERVER_NAME, key: new Uint8Array(32) } } });
    return { kind, listenOn: text };
  } catch (error) {
    if (GodwitError.is(error)) return error.message;
    throw error;
  }
}

export interface Credentials {
  readonly listening: TlsCredentials;
  readonly connecting: TlsCredentials;
}

/** Certificates for one run, of an authority that only this run has: by them each side authenticates the other. */
export function throwAwayCredentials(): Credentials {
  const authority = testCertificate('throw-away authority of the Godwit demo');
  const pair = (name: string, hosts: readonly string[]) => {
    const { cert, key } = testCertificate(name, { signer: authority, hosts });
    return { ca: authority.cert, cert, key, servername: SERVER_NAME };
  };
  return { listening: pair('destination', [SERVER_NAME]), connecting: pair('source', []) };
}
