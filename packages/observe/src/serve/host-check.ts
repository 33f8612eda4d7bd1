import { isIP } from 'node:net';

/**
 * Whether a request for this `Host` may be answered. A page on the web can have its own name resolve to this host (DNS rebinding), and its
 * scripts would then read what is served here. The browser sends that page's name in the header, and scripts cannot change it. So IP
 * addresses, `localhost` and allowed names are accepted.
 */
export function mayAsk(host: string | undefined, allowed: readonly string[]): boolean {
  if (host === undefined) return false;
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/.exec(host);
  if (match === null) return false;
  const [, v6, other = ''] = match;
  if (v6 !== undefined) return isIP(v6) === 6;
  const name = other.toLowerCase();
  return isIP(name) === 4 || name === 'localhost' || allowed.some((one) => one.toLowerCase() === name);
}
