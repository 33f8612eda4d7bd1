import { GodwitError } from '@godwit/core';

/**
 * Codes of errors that another attempt will not change, since a person has to do something first. All other errors may pass:
 * a destination that is about to start refuses (ECONNREFUSED, ENOENT), routes and hosts come back, a backlog that is full
 * (EAGAIN) empties.
 */
const LASTING: ReadonlySet<string> = new Set([
  'EACCES',
  'EPERM',
  'EADDRNOTAVAIL',
  'EAFNOSUPPORT',
  'EINVAL',
  'ENAMETOOLONG',
  'ENOTDIR',
  'ENOTFOUND',
  'ENOTSOCK',
  'EPROTOTYPE',
  'ELOOP',
]);

/** What a person can do, by error code. */
const HINTS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', 'nothing listens there; start the destination first and compare the address'],
  ['ENOENT', 'there is no such socket; start the destination first and compare the path'],
  ['EADDRINUSE', 'something listens there already; stop it or choose another address'],
  ['EADDRNOTAVAIL', 'this host has no such address'],
  ['EACCES', 'no permission; check the rights of the path, or take a port of 1024 or more'],
  ['ENOTFOUND', 'the name does not resolve; check its spelling, and the name service of this host'],
  ['EAI_AGAIN', 'the name service does not answer; check it, or give an address'],
  ['ETIMEDOUT', 'no answer; check the route and the firewalls between the hosts'],
  ['EHOSTUNREACH', 'no route to that host'],
  ['ENETUNREACH', 'no route to that network; check the address, and whether this host has IPv6'],
  ['EAGAIN', 'too many connections wait there already; try again later'],
  ['EMFILE', 'this process has too many open files; raise its limit (ulimit -n)'],
  ['ENOTDIR', 'a part of the path is no folder'],
]);

/** The error's own message, and what can be done about it. */
export function explain(error: NodeJS.ErrnoException): string {
  const hint = error.code === undefined ? undefined : HINTS.get(error.code);
  return hint === undefined ? error.message : `${error.message}: ${hint}`;
}

/** Whether another attempt may succeed, as far as the carrier's own error shows. */
export function mayPass(error: NodeJS.ErrnoException): boolean {
  return reasonsOf(error).some(({ code }) => code === undefined || !LASTING.has(code));
}

/**
 * The error for a connection that could not be made, with every address that was tried and its reason. The error may be
 * retried if that of any address may pass: a name whose first address has no route may have a destination at the second.
 */
export function connectFailure(peer: string, error: NodeJS.ErrnoException): GodwitError {
  return new GodwitError('GODWIT_CONNECT_FAILED', `cannot connect to ${peer}: ${explainAll(error)}`, {
    cause: error,
    retry: mayPass(error),
  });
}

/** Does the same as `explain`, also for the errors of several addresses: Node's own `AggregateError` has no message. */
export function explainAll(error: NodeJS.ErrnoException): string {
  const reasons = reasonsOf(error);
  if (reasons.length === 1) return explain(reasons[0] as NodeJS.ErrnoException);
  const hints = new Set(reasons.flatMap(({ code = '' }) => HINTS.get(code) ?? []));
  const all = reasons.map(({ message }) => message).join('; ');
  return [`none of ${reasons.length} addresses answers: ${all}`, ...hints].join(': ');
}

function reasonsOf(error: NodeJS.ErrnoException): readonly NodeJS.ErrnoException[] {
  const { errors } = error as { errors?: unknown };
  return Array.isArray(errors) && errors.length > 0 ? (errors as NodeJS.ErrnoException[]) : [error];
}
