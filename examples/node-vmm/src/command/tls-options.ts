import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { TlsFiles } from '../vmm/transport-of.js';

export interface TlsOptionValues {
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsPsk?: string;
  readonly tlsServername?: string;
}

/** The options for `tls:` and `wss:`. Certificates and keys are never in a URI, since URIs are logged. */
export function addTlsOptions(command: Command): Command {
  return command
    .option('--tls-ca <file>', "the authorities that may have signed the other side's certificate (PEM)")
    .option('--tls-cert <file>', "this side's certificate (PEM)")
    .option('--tls-key <file>', 'its private key (PEM)')
    .option('--tls-psk <file>', 'instead of certificates a key that both sides have: a line IDENTITY:HEX')
    .option('--tls-servername <name>', "the name in the destination's certificate, if it is not the host");
}

/**
 * The files by absolute path, since the VMM that reads them may have another working folder; undefined when there are
 * none.
 */
export function tlsFiles(options: TlsOptionValues): TlsFiles | undefined {
  const { tlsCa, tlsCert, tlsKey, tlsPsk, tlsServername } = options;
  const files: TlsFiles = {
    ...(tlsCa !== undefined && { ca: resolve(tlsCa) }),
    ...(tlsCert !== undefined && { cert: resolve(tlsCert) }),
    ...(tlsKey !== undefined && { key: resolve(tlsKey) }),
    ...(tlsPsk !== undefined && { psk: resolve(tlsPsk) }),
    ...(tlsServername !== undefined && { servername: tlsServername }),
  };
  return Object.keys(files).length === 0 ? undefined : files;
}
