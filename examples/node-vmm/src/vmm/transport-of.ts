import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { GodwitError, suggestion } from '@godwit/core';
import { type TlsOptions, type Transport, transportFromUri } from '@godwit/transport';

/**
 * The paths of files for TLS: certificates (`ca`, `cert`, `key`), or a key that both sides have (`psk`: a line `identity:hex digits`).
 */
export interface TlsFiles {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly psk?: string;
  /** The name that the destination's certificate must have, if it is not the host (no path). */
  readonly servername?: string;
}

export interface TransportSettings {
  readonly tls?: TlsFiles | undefined;
  /** Called for each peer that a listener with TLS refuses. */
  readonly onRefused?: (error: GodwitError) => void;
}

/**
 * The transport of a URI: all of `transportFromUri`. Certificates and keys come from files, never from the URI, which is logged.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for an invalid URI, a file that cannot be read, or TLS files that the transport does not
 * use
 */
export async function transportOf(uri: string, { tls, onRefused }: TransportSettings = {}): Promise<Transport> {
  if (tls === undefined) return transportFromUri(uri);
  if (!/^(tls|wss):/i.test(uri)) {
    const near = suggestion(uri.slice(0, uri.indexOf(':') + 1), ['tls:', 'wss:']);
    throw invalid(`certificates and keys are for tls: and wss:, and "${uri}" would not use them${near}`);
  }
  const [ca, cert, key, psk] = await Promise.all([read(tls.ca), read(tls.cert), read(tls.key), read(tls.psk)]);
  const options: Omit<TlsOptions, 'host' | 'port'> = {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(psk !== undefined && { psk: preSharedKey(psk, tls.psk ?? '') }),
    ...(tls.servername !== undefined && { servername: tls.servername }),
    ...(onRefused !== undefined && { onRefused }),
  };
  return transportFromUri(uri, { tls: options });
}

/** The URI with the path of a file or socket made absolute: the VMM that uses it may have another working folder. */
export function absoluteUri(uri: string, folder: string): string {
  const match = /^(unix|file):(?:\/\/(?=\/))?(.+)$/i.exec(uri);
  return match === null ? uri : `${match[1]}:${resolve(folder, match[2] as string)}`;
}

async function read(path: string | undefined): Promise<Buffer | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path);
  } catch (error) {
    throw invalid(`a certificate or key cannot be read: ${(error as Error).message}`);
  }
}

function preSharedKey(file: Buffer, path: string): { readonly identity: string; readonly key: Uint8Array } {
  const match = /^([^:\s]+):([0-9a-f]+)\s*$/i.exec(file.toString('latin1'));
  if (match === null) throw invalid(`${path} is no pre-shared key: one line, identity:hex digits`);
  return { identity: match[1] as string, key: Buffer.from(match[2] as string, 'hex') };
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
